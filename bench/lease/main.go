// Command lease is one member of many elections with the LeaderElector of client-go. It says when it
// wins one (in seconds since 1970) and when it loses one, and as soon as it leads all. Incumbent is
// compared with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "where Kubernetes is")
	namespace := flag.String("namespace", "default", "where the Leases are")
	elections := flag.Int("elections", 1, "how many")
	identity := flag.String("identity", "member", "who this member is")
	// The defaults are those of Kubernetes' own components: 15, 10 and 2 s.
	lease := flag.Duration("lease-duration", 15*time.Second, "how long a silent leader stays so")
	// Members of many processes do not renew at the same moment, so neither do these.
	every := flag.Duration("start-every", 20*time.Millisecond, "from one election to the next")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	config.QPS = -1 // no limit: they stand for so many processes
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	var led atomic.Int64
	for number := range *elections {
		go func() {
			name := fmt.Sprintf("e%d", number)
			time.Sleep(*every * time.Duration(number))
			for { // RunOrDie returns when the lease is lost
				leaderelection.RunOrDie(context.Background(), leaderelection.LeaderElectionConfig{
					Lock: &resourcelock.LeaseLock{
						LeaseMeta:  metav1.ObjectMeta{Name: name, Namespace: *namespace},
						Client:     client.CoordinationV1(),
						LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
					},
					LeaseDuration: *lease,
					RenewDeadline: *lease * 2 / 3,
					RetryPeriod:   *lease * 2 / 15,
					Callbacks: leaderelection.LeaderCallbacks{
						OnStartedLeading: func(context.Context) {
							now := float64(time.Now().UnixNano()) / 1e9
							fmt.Printf("won %s %.6f\n", name, now)
							if led.Add(1) == int64(*elections) {
								fmt.Println("all led")
							}
						},
						OnStoppedLeading: func() {
							led.Add(-1)
							fmt.Println("lost", name)
						},
					},
				})
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

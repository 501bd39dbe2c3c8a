// Command lease holds many elections with the LeaderElector of client-go, one member for each, and
// says so as soon as all are led. Incumbent is compared with it.
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

// The defaults of Kubernetes' own components.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
	// Members of many processes do not renew at the same moment, so neither do these.
	startEvery = 20 * time.Millisecond
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "where Kubernetes is")
	namespace := flag.String("namespace", "default", "where the Leases are")
	elections := flag.Int("elections", 1, "how many")
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
	var led, lost atomic.Int64
	for number := range *elections {
		go func() {
			time.Sleep(startEvery * time.Duration(number))
			leaderelection.RunOrDie(context.Background(), leaderelection.LeaderElectionConfig{
				Lock: &resourcelock.LeaseLock{
					LeaseMeta:  metav1.ObjectMeta{Name: fmt.Sprintf("e%d", number), Namespace: *namespace},
					Client:     client.CoordinationV1(),
					LockConfig: resourcelock.ResourceLockConfig{Identity: fmt.Sprintf("member-%d", number)},
				},
				LeaseDuration: leaseDuration,
				RenewDeadline: renewDeadline,
				RetryPeriod:   retryPeriod,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(context.Context) {
						if led.Add(1) == int64(*elections) {
							fmt.Println("all led")
						}
					},
					OnStoppedLeading: func() { fmt.Println("lost", lost.Add(1)) },
				},
			})
		}()
	}
	select {}
}

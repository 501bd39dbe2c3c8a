"use strict";
// The live page. It asks v1/elections?changes for a stream, and v1/elections/…/history for the rows
// that are in sight. Everything is put into the page as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const SILENCE = 10_000; // ms without an event, of which there is one every 2 s, until we call it lost
const LONGEST_PAUSE = 10_000;
const TERMS = 50;
const ASKED_AT_ONCE = 4;
const ENTRY_WRITTEN = 1_800; // ms: an entry is written 700 ms after a change, and an answer is shared for a second

const $ = (id) => document.getElementById(id);
const text = new Intl.NumberFormat("en");
const elections = new Map(); // "namespace/name" → Row
let clockAhead = 0; // ms that the server's wall clock is ahead of ours
let historyProblem = null;
const opened = Date.now();

const COLUMNS = [
  { id: "namespace", title: "Namespace", value: (e) => e.namespace },
  { id: "name", title: "Name", value: (e) => e.name },
  { id: "state", title: "State", value: (e) => `${RANK[kindOf(e)]} ${ready(e).reason}` },
  { id: "leader", title: "Leader", value: (e) => leaderOf(e) || "￿" },
  { id: "site", title: "Site", value: (e) => e.site || "￿" },
  { id: "token", title: "Token", value: (e) => e.token ?? -1, number: true },
  { id: "candidates", title: "Candidates", value: (e) => e.candidates?.ready ?? -1, number: true },
  { id: "lease", title: "Lease left", value: (e, row) => row.left() ?? -1, number: true },
  { id: "timeline", title: "Terms", value: (e, row) => -row.began() },
];
const RANK = { trouble: 0, nobody: 1, unknown: 2, elsewhere: 3, here: 4 };
const DATES = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const TIMES = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
let sorting = { id: "namespace", down: false };

// What an election is

const ready = (e) => e.conditions.find((c) => c.type === "Ready") ?? { status: "Unknown", reason: "Starting", message: "" };
const leaderOf = (e) => e.leader?.podName ?? (ready(e).status === "True" ? e.holder ?? "" : "");

function kindOf(e) {
  const { reason, status } = ready(e);
  if (reason === "Leading") return "here";
  if (reason === "LedElsewhere") return "elsewhere";
  if (["NoCandidates", "Vacant", "Suspended"].includes(reason)) return "nobody";
  return status === "Unknown" ? "unknown" : "trouble";
}

const LABELS = {
  Leading: "Leading", LedElsewhere: "Led elsewhere", NoCandidates: "No candidates", Vacant: "Vacant",
  Suspended: "Suspended", Starting: "Starting", KeyInUse: "Key in use", LabelKeyInUse: "Label key in use",
  BucketNotFound: "Bucket not found", BucketInvalid: "Bucket invalid", BucketSilent: "Bucket silent",
  RecordOutdated: "Record outdated", BucketUnreachable: "Bucket unreachable",
  PermissionDenied: "Permission denied", AdmissionDenied: "Admission denied", NotWatched: "Not watched", TokenRegressed: "Token regressed",
  SiteInUse: "Site in use",
  CampaignInvalid: "Campaign invalid", NotServed: "Not served",
};

function duration(seconds) {
  if (seconds < 0.95) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

// Why nobody led after a term: it had ended, or its holder kept the key, but no pod had the label.
const afterTerm = (term, next) => (term === next || !term.cause
  ? `: ${term.holder} held the key, but no pod had the label`
  : ` after the term before was ${term.cause}`);

const when = (time) => (new Date(time).toDateString() === new Date().toDateString() ? TIMES : DATES).format(time);

// Elements

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

function draw(name, attributes, title) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (title) element.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: title }));
  return element;
}

const setText = (element, value) => { if (element.textContent !== value) element.textContent = value; };

class Row {
  constructor(key) {
    this.key = key;
    this.terms = []; // newest first, as v1/…/history has them
    this.asked = false;
    this.inSight = false;
    this.highest = 1; // the most that was ever left of its lease
    this.cells = {};
    this.element = make("tr", { role: "row" });
    for (const column of COLUMNS) {
      const cell = make("td", { role: "cell", className: column.id, "data-title": column.title });
      this.cells[column.id] = cell;
      this.element.append(cell);
    }
    this.button = make("button", { type: "button", "aria-expanded": "false" });
    this.button.addEventListener("click", () => this.toggle());
    this.cells.name.append(this.button);
    this.badge = make("span", { className: "badge" });
    this.cells.state.append(this.badge);
    this.bar = make("i", {});
    this.countdown = make("span", {});
    this.cells.lease.append(this.countdown, make("span", { className: "bar", "aria-hidden": "true" }, this.bar));
    this.svg = draw("svg", { role: "img", class: "line", height: "20", width: "100%" });
    this.cells.timeline.append(this.svg);
    this.element.row = this;
    sight.observe(this.element);
  }

  take(election) {
    const before = this.election;
    this.election = election;
    this.setLeft(election.remainingSeconds);
    const { reason, message } = ready(election);
    const kind = kindOf(election);
    setText(this.cells.namespace, election.namespace);
    setText(this.button, election.name);
    setText(this.badge, LABELS[reason] ?? reason);
    this.badge.dataset.kind = reason === "Suspended" ? "suspended" : kind;
    this.badge.title = message;
    const leader = leaderOf(election);
    setText(this.cells.leader, leader || "nobody");
    this.cells.leader.classList.toggle("none", !leader);
    this.cells.leader.title = election.holder ?? "";
    setText(this.cells.site, election.site ?? "–");
    setText(this.cells.token, election.token == null ? "–" : text.format(election.token));
    const { ready: can, total } = election.candidates ?? {};
    setText(this.cells.candidates, can == null ? "–" : `${can} of ${total}`);
    this.words = [this.key, leader, election.holder, election.site, election.leader?.nodeName, reason, election.steward]
      .join(" ").toLowerCase();
    const reign = (e) => e && `${e.token} ${e.holder} ${!!e.leader} ${kindOf(e)}`;
    if (reign(before) !== reign(election)) {
      this.note(before, election);
      if (before) setTimeout(() => this.ask(), ENTRY_WRITTEN);
      if (this.inSight) this.ask();
    }
    if (this.details) this.fillDetails();
  }

  // What was seen since the page was opened, for where nobody keeps a history.
  note(before, election) {
    const now = new Date(Date.now() + clockAhead).toISOString();
    const held = ["here", "elsewhere"].includes(kindOf(election));
    const last = this.seen?.[0];
    const same = last && held && last.holder === election.holder && last.token === election.token;
    this.seen ??= [];
    if (last && !last.to && !same) {
      last.to = now;
      const released = ["NoCandidates", "Suspended"].includes(ready(election).reason);
      last.cause = released ? "released" : held && before?.site === election.site ? "handed over" : "lost";
    }
    if (held && !(same && !last.to)) {
      const began = before ? now : election.leader?.acquiredTime ?? now;
      this.seen.unshift({ token: election.token, holder: election.holder, site: election.site, from: began, to: null, cause: null, exact: !!before });
      this.seen.length = Math.min(this.seen.length, TERMS);
    }
    if (historyProblem && !this.fromHistory) this.terms = this.seen;
  }

  async ask() {
    this.asked = true;
    try {
      const found = await queue(() => getJson(`v1/elections/${this.key}/history?limit=${TERMS}`));
      if (!found) return;
      setProblem(found.problem);
      this.fromHistory = found.terms.length > 0;
      this.terms = this.fromHistory ? found.terms : this.seen ?? [];
      this.drawTerms();
      if (this.details) this.fillDetails();
    } catch {
      this.asked = false; // again when it comes into sight, or when the connection is back
    }
  }

  began() {
    return this.terms.length ? Date.parse(this.terms[0].from) : 0;
  }

  // The lease

  setLeft(seconds) {
    this.deadline = seconds == null ? null : performance.now() + seconds * 1000;
    if (seconds != null) this.highest = Math.max(this.highest, seconds);
  }

  left() {
    return this.deadline == null ? null : Math.max(0, (this.deadline - performance.now()) / 1000);
  }

  tick() {
    const left = connected ? this.left() : null;
    setText(this.countdown, left == null ? "–" : `${left.toFixed(left < 10 ? 1 : 0)} s`);
    this.bar.style.width = left == null ? "0" : `${(100 * left) / this.highest}%`;
    this.bar.parentElement.hidden = left == null;
    this.cells.lease.classList.toggle("short", left != null && left < 0.25 * this.highest);
  }

  // The timeline

  drawTerms() {
    const end = Date.now() + clockAhead;
    const span = Number($("window").value) * 1000;
    const start = end - span;
    const at = (time) => Math.min(100, Math.max(0, (100 * (time - start)) / span));
    const parts = [draw("line", { class: "track", x1: "0", x2: "100%", y1: "10", y2: "10" })];
    const handedOver = [];
    const terms = this.terms.toReversed();
    const colours = new Map();
    let gaps = 0, shown = 0, idle = 0;
    const addGap = (from, to, why) => {
      if (to < start) return;
      gaps += 1;
      idle += to - Math.max(from, start);
      const [left, right] = [at(from), at(to)];
      parts.push(draw("rect", {
        class: "gap", x: `${left}%`, width: `${Math.max(0.7, right - left)}%`, y: "1", height: "18",
      }, `nobody led for ${duration((to - from) / 1000)}${why}`));
    };
    const leads = []; // when somebody led, in order
    terms.forEach((term, index) => {
      const next = terms[index + 1];
      const began = Date.parse(term.from);
      const to = term.to ? Date.parse(term.to) : next ? Date.parse(next.from) : end;
      if (!colours.has(term.holder)) colours.set(term.holder, colours.size % 6);
      const about = `${term.holder}, ${when(began)}, ${duration((to - began) / 1000)}` +
        `${term.token == null ? "" : `, token ${term.token}`}${term.cause ? `, ${term.cause}` : ""}`;
      const waits = !term.led && !next && !term.cause && ready(this.election).reason === "Vacant";
      if (to >= start) shown += 1;
      if (to >= start && (term.led || waits)) {
        parts.push(draw("rect", {
          class: `held c${colours.get(term.holder)}`,
          x: `${at(began)}%`, width: `${Math.max(0.4, at(to) - at(began))}%`, y: "7", height: "6",
        }, `${about}: this long it held the key`));
      }
      for (const lead of term.led ?? (waits ? [] : [{ from: term.from, to: term.to }])) {
        const open = !lead.to && !!(term.cause || next);
        leads.push({ term, about, open, from: Date.parse(lead.from), to: lead.to ? Date.parse(lead.to) : open ? to : end });
      }
      if (began >= start && ["handed over", "overtaken"].includes(terms[index - 1]?.cause)) handedOver.push(began);
    });
    leads.sort((one, other) => one.from - other.from);
    let last = null;
    leads.forEach((lead, index) => {
      if (lead.open) lead.to = leads[index + 1]?.from ?? lead.to; // nobody saw when it ended
      const quick = last && ["handed over", "overtaken"].includes(last.term.cause) && lead.from - last.to < 1000;
      if (last?.open && lead.from >= start) gaps += 1;
      else if (last && lead.from > last.to && !quick) addGap(last.to, lead.from, afterTerm(last.term, lead.term));
      if (!last || lead.to >= last.to) last = lead;
      if (lead.to < start) return;
      const [left, right] = [at(lead.from), at(lead.to)];
      const led = lead.term.led ? `, led ${when(lead.from)} for ${duration((lead.to - lead.from) / 1000)}` : "";
      parts.push(draw("rect", {
        class: `term c${colours.get(lead.term.holder)}${lead.open ? " unseen-end" : ""}`,
        x: `${left}%`, width: `${Math.max(0.4, right - left)}%`, y: "3", height: "14", rx: "2",
      }, lead.about + led));
    });
    if (last && !last.open && last.to < end) addGap(last.to, end, afterTerm(last.term, null));
    for (const time of handedOver) {
      // A nested svg takes percentages, which a path does not.
      const place = draw("svg", { x: `${at(time)}%`, y: "0", overflow: "visible", width: "1", height: "20" });
      place.append(
        draw("line", { class: "handover", x1: "0", x2: "0", y1: "0", y2: "20" }),
        draw("path", { class: "handover", d: "M-3 0 L3 0 L0 5 Z" }, `handed over, ${when(time)}`),
      );
      parts.push(place);
    }
    this.svg.replaceChildren(...parts);
    const label = shown
      ? `${shown} ${shown === 1 ? "term" : "terms"}, ${handedOver.length} handed over, ${gaps} ${gaps === 1 ? "gap" : "gaps"}` +
        `${idle ? ` of ${duration(idle / 1000)}` : ""} in the last ${$("window").selectedOptions[0].text}`
      : `no term in the last ${$("window").selectedOptions[0].text}`;
    this.svg.setAttribute("aria-label", label);
    this.drawn = performance.now();
  }

  // Details

  toggle() {
    const open = this.button.getAttribute("aria-expanded") === "false";
    this.button.setAttribute("aria-expanded", String(open));
    if (open) {
      this.details = make("tr", { role: "row", className: "details", id: `about-${this.key}` },
        make("td", { role: "cell", colSpan: COLUMNS.length }));
      this.button.setAttribute("aria-controls", this.details.id);
      this.fillDetails();
      this.element.after(this.details);
      this.ask();
    } else {
      this.details.remove();
      this.details = null;
    }
  }

  fillDetails() {
    const e = this.election;
    const facts = make("dl", {});
    const add = (title, value) => { if (value) facts.append(make("dt", {}, title), make("dd", {}, String(value))); };
    add("Holder", e.holder);
    add("Pod", e.leader && [e.leader.podName, e.leader.podIP].filter(Boolean).join(", "));
    add("Node", e.leader?.nodeName);
    add("In office since", e.leader?.acquiredTime && when(Date.parse(e.leader.acquiredTime)));
    add("Renewed by", e.steward && `replica ${e.steward}`);
    add("Changes of leader", e.transitions);
    const conditions = make("ul", { className: "conditions" });
    for (const c of e.conditions) {
      const good = c.status === (c.type === "Stalled" ? "False" : "True");
      conditions.append(make("li", { className: good ? "good" : c.status === "Unknown" ? "" : "bad" },
        make("b", {}, c.type), ` ${c.status}, ${c.reason}: ${c.message}`));
    }
    const body = make("tbody", {});
    for (const term of this.terms.slice(0, 12)) {
      const from = Date.parse(term.from);
      const to = term.to ? Date.parse(term.to) : null;
      const lasted = to == null ? (term.cause ? "?" : duration((Date.now() + clockAhead - from) / 1000)) : duration((to - from) / 1000);
      body.append(make("tr", {},
        make("td", {}, (term.exact ? "" : "before ") + when(from)),
        make("td", {}, to ? when(to) : term.cause ? "not seen" : "in office"),
        make("td", {}, lasted),
        make("td", {}, this.ledFor(term)),
        make("td", { className: "holder" }, term.holder),
        make("td", {}, term.token == null ? "–" : String(term.token)),
        make("td", {}, term.cause ?? "")));
    }
    const head = make("thead", {}, make("tr", {},
      ...["From", "To", "Lasted", "Led", "Holder", "Token", "Ended"].map((title) => make("th", { scope: "col" }, title))));
    const terms = body.children.length
      ? make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `Terms of ${this.key}` }, make("table", {}, head, body))
      : make("p", {}, "No term is known.");
    this.details.firstChild.replaceChildren(make("div", { className: "about" },
      make("section", {}, make("h2", {}, "Now"), facts, conditions),
      make("section", {}, make("h2", {}, "Terms"), terms)));
  }

  // How long a pod had the leader label in a term; of some terms nobody tells.
  ledFor(term) {
    if (!term.led) return "–";
    if (term.led.some((lead) => !lead.to) && term.cause) return "?";
    const now = Date.now() + clockAhead;
    return duration(term.led.reduce((sum, { from, to }) => sum + (to ? Date.parse(to) : now) - Date.parse(from), 0) / 1000);
  }

  remove() {
    sight.unobserve(this.element);
    this.element.remove();
    this.details?.remove();
  }
}

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const row = target.row;
    row.inSight = isIntersecting;
    if (!isIntersecting) continue;
    row.tick();
    row.drawTerms();
    if (!row.asked) row.ask();
  }
}, { rootMargin: "100px" });

const visible = () => [...elections.values()].filter((row) => row.inSight);

// Requests: a few at a time, so that a thousand rows do not ask at once

let asking = 0;
const waiting = [];
async function queue(work) {
  if (asking >= ASKED_AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  asking += 1;
  try {
    return await work();
  } finally {
    asking -= 1;
    waiting.shift()?.();
  }
}

async function getJson(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const date = Date.parse(answer.headers.get("Date"));
  if (date && Math.abs(date - Date.now() - clockAhead) > 1500) clockAhead = date - Date.now();
  return answer.ok ? answer.json() : null;
}

function setProblem(problem) {
  historyProblem = problem;
  const notice = $("notice");
  notice.hidden = !problem;
  if (!problem) return;
  const since = new Intl.DateTimeFormat(undefined, { timeStyle: "short" }).format(opened);
  setText(notice, /^the history is off/.test(problem)
    ? `Showing terms since you opened this page (${since}). To keep history, start the operator with --history-stream.`
    : `The history is not complete: ${problem}.`);
}

// The table

function fillHead() {
  const head = document.querySelector("#elections thead tr");
  for (const column of COLUMNS) {
    const button = make("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      sorting = { id: column.id, down: sorting.id === column.id && !sorting.down };
      arrange();
    });
    column.head = make("th", { role: "columnheader", scope: "col", className: column.id }, button);
    if (column.id === "timeline") column.head.append(make("span", { id: "axis", "aria-hidden": "true" }));
    head.append(column.head);
    $("sort").append(make("option", { value: column.id }, column.title.toLowerCase()));
  }
}

function drawAxis() {
  const seconds = Number($("window").value);
  $("axis").replaceChildren(...[1, 0.5].map((part) => make("span", {}, `${duration(seconds * part)} ago`)), make("span", {}, "now"));
}

function compare(one, other) {
  const column = COLUMNS.find((c) => c.id === sorting.id);
  const [a, b] = [column.value(one.election, one), column.value(other.election, other)];
  const order = column.number || typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0;
  const names = one.key < other.key ? -1 : 1;
  return (sorting.down ? -order : order) || names;
}

function arrange() {
  const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [namespace, state] = [$("namespace").value, $("state").value];
  const rows = [...elections.values()].sort(compare);
  let shown = 0;
  for (const row of rows) {
    const kind = kindOf(row.election);
    const wanted = words.every((word) => row.words.includes(word))
      && (!namespace || row.election.namespace === namespace)
      && (!state || state === kind || (state === "trouble" && kind !== "here" && kind !== "elsewhere" && ready(row.election).reason !== "Suspended"));
    row.element.hidden = !wanted;
    if (row.details) row.details.hidden = !wanted;
    shown += wanted;
  }
  const body = document.querySelector("#elections tbody");
  const wantedOrder = rows.flatMap((row) => (row.details ? [row.element, row.details] : [row.element]));
  if (wantedOrder.length !== body.children.length || wantedOrder.some((element, i) => body.children[i] !== element)) {
    const focused = document.activeElement;
    body.replaceChildren(...wantedOrder);
    if (body.contains(focused)) focused.focus();
  }
  for (const column of COLUMNS) {
    const sorted = column.id === sorting.id ? (sorting.down ? "descending" : "ascending") : "none";
    column.head.setAttribute("aria-sort", sorted);
  }
  $("sort").value = sorting.id;
  $("empty").hidden = shown > 0 || !connectedOnce;
  setText($("empty"), elections.size ? "No election matches the filters." : "This operator serves no election yet.");
  summarise(shown);
}

function summarise(shown) {
  const kinds = { here: 0, elsewhere: 0, nobody: 0, trouble: 0, unknown: 0 };
  for (const row of elections.values()) kinds[kindOf(row.election)] += 1;
  const parts = [`${text.format(elections.size)} ${elections.size === 1 ? "election" : "elections"}`];
  if (kinds.here) parts.push(`${text.format(kinds.here)} led here`);
  if (kinds.elsewhere) parts.push(`${text.format(kinds.elsewhere)} elsewhere`);
  const rest = kinds.nobody + kinds.trouble + kinds.unknown;
  if (rest) parts.push(`${text.format(rest)} without a leader`);
  if (shown !== elections.size) parts.push(`${text.format(shown)} shown`);
  setText($("summary"), connectedOnce ? parts.join(" · ") : "");
}

function fillNamespaces() {
  const select = $("namespace");
  const names = [...new Set([...elections.values()].map((row) => row.election.namespace))].sort();
  const known = [...select.options].slice(1).map((option) => option.value);
  if (names.join() === known.join()) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...names.map((name) => make("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : "";
}

function take(news) {
  performance.mark("take");
  if (news.full) {
    const kept = new Set(news.changed.map((e) => `${e.namespace}/${e.name}`));
    news.gone = [...elections.keys()].filter((key) => !kept.has(key));
  }
  for (const key of news.gone) {
    elections.get(key)?.remove();
    elections.delete(key);
  }
  for (const election of news.changed) {
    const key = `${election.namespace}/${election.name}`;
    if (!elections.has(key)) elections.set(key, new Row(key));
    elections.get(key).take(election);
  }
  if (news.remaining) {
    for (const [key, row] of elections) row.setLeft(news.remaining[key] ?? null);
  }
  if (news.changed.length || news.gone.length || news.full) {
    fillNamespaces();
    arrange();
    for (const row of visible()) row.tick();
  }
  performance.measure(news.full ? "take all" : "take some", "take");
}

// The connection

let connected = false, connectedOnce = false, source = null, failures = 0, heard = 0, nextTry = 0;

function connect() {
  source?.close();
  source = new EventSource("v1/elections?changes");
  heard = performance.now();
  source.onmessage = (message) => {
    const news = JSON.parse(message.data);
    heard = performance.now();
    failures = 0;
    if (!connected) {
      connected = connectedOnce = true;
      for (const row of elections.values()) row.asked = false;
      take(news);
      for (const row of visible()) row.ask();
      show("live", "Live");
    } else take(news);
  };
  source.onerror = lose;
}

function lose() {
  source?.close();
  source = null;
  connected = false;
  failures += 1;
  nextTry = performance.now() + Math.min(LONGEST_PAUSE, 500 * 2 ** failures);
  document.body.classList.add("stale");
  show("lost", "Not connected");
}

function show(state, words) {
  const status = $("connection");
  if (state === "live") document.body.classList.remove("stale");
  status.dataset.state = state;
  setText(status, words);
  status.title = state === "lost" ? "What is shown is what was known last; another attempt follows by itself." : "";
}

function tick() {
  const now = performance.now();
  if (source ? now - heard > SILENCE : now >= nextTry) source ? lose() : connect();
  const spacing = (Number($("window").value) * 1000) / 300;
  for (const row of visible()) {
    row.tick();
    if (connected && now - (row.drawn ?? 0) > Math.max(1000, spacing)) row.drawTerms();
  }
}

// Begin

fillHead();
drawAxis();
for (const id of ["text", "namespace", "state"]) $(id).addEventListener("input", arrange);
$("window").addEventListener("input", () => {
  drawAxis();
  for (const row of visible()) row.drawTerms();
});
$("sort").addEventListener("input", () => { sorting = { id: $("sort").value, down: false }; arrange(); });
$("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("text").focus();
  } else if (event.key === "Escape" && event.target === $("text")) {
    $("text").value = "";
    arrange();
  }
});
setInterval(tick, 250);
connect();

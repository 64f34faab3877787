package soak

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/napitune/napitune/lab/faults"
	"github.com/napitune/napitune/lab/wire"
)

var (
	lasting = flag.Duration("lasting", time.Minute, "how long the soak lasts")
	seed    = flag.Uint64("seed", 1, "what makes the walk")
)

// TestSoak runs in guests only:
//
//	go run ./lab/cmd/lab test --cpus 8 --nic virtio,queues=4,rss,port --timeout 40m ./lab/soak -- -test.v -test.timeout=0 -lasting=30m -seed=7
func TestSoak(t *testing.T) {
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("this is no guest of the lab: the command is in the comment of this test")
	}
	peer, err := wire.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	h := &host{t: t, peer: peer, plan: filepath.Join(t.TempDir(), "plan.json"), met: map[Kind]int{}}
	// Otherwise addresses and routers are looked for with each flap of the link.
	h.shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
	_, err = exec.Command("sh", "-c", "ethtool -x eth0 | grep -q 'RSS hash key'").Output()
	m := Machine{CPUs: runtime.NumCPU(), Queues: 4, RSS: err == nil}
	// A card in a port hangs on a bridge and not on the root bus, and only that
	// can be unplugged.
	m.Port = exec.Command("sh", "-c", `[ -e /sys/class/net/eth0/device/../../vendor ] && lab nic link-up 0`).Run() == nil
	w := NewWalk(*seed, m)
	end := time.Now().Add(*lasting)
	for n := 1; time.Now().Before(end); n++ {
		if !t.Run(fmt.Sprintf("round=%d", n), func(t *testing.T) {
			h.t = t
			h.round(w.Round())
		}) {
			h.failed++
		}
	}
	t.Logf("seed %d on %+v: %d rounds, %d failed, %d by plans of the walk; met %v; %d rollbacks left something",
		*seed, m, h.rounds, h.failed, h.walked, h.met, h.left)
	missing, short := judge(h.met, h.rounds)
	for _, kind := range missing {
		t.Error(kind)
	}
	for _, kind := range short {
		t.Logf("too short to demand: %s", kind)
	}
}

// host is the guest with a count of what was done to it.
type host struct {
	t                            *testing.T
	peer                         *wire.Peer
	plan                         string
	met                          map[Kind]int
	rounds, failed, walked, left int
	now                          round
}

// round is what is known of the round that is walked.
type round struct {
	recorded, disturbed state
	// gone: the NIC was taken away since the apply began, which explains that a
	// rollback leaves something.
	gone bool
	// open: there is certainly something to roll back.
	open bool
	code int // of the last rollback
}

// shell runs a script, which must not fail.
func (h *host) shell(text string) bool {
	h.t.Helper()
	out, err := exec.Command("sh", "-c", prelude+text).CombinedOutput()
	if err != nil {
		h.t.Errorf("    %v: %s\nof %s", err, out, text)
	}
	return err == nil
}

// round walks the steps and checks. What a disturbance changed may be as it
// left it or as the rollback would have it, and nothing third; everything else
// must be as it was before the apply.
func (h *host) round(steps []Step) {
	h.rounds++
	h.now = round{disturbed: state{}}
	for _, s := range steps {
		h.t.Log(s)
		switch s.Verb {
		case Fault:
			h.shell(s.Script)
		case Apply:
			planned := h.advise(s.Policy) || h.want(s.Wants)
			h.now.recorded = h.read()
			if planned {
				h.apply(s)
			} else if s.Script != "" {
				h.takeAway(s)
			}
		case Disturb:
			before := h.read()
			if h.shell(s.Script) && s.Kind != "" {
				h.met[s.Kind]++
			}
			h.now.gone = h.now.gone || s.Kind == Gone
			maps.Copy(h.now.disturbed, before.changed(h.read()))
		case Rollback:
			h.rollback(s)
		}
	}
	h.check()
	h.shell("for f in /sys/devices/system/cpu/cpu[1-9]*/online; do read on <$f; [ $on = 1 ] || echo 1 >$f; done; ip link set eth0 up")
}

// takeAway runs the script that goes with a program.
func (h *host) takeAway(s Step) {
	h.now.gone = true
	if h.shell(s.Script) {
		h.met[Gone]++
	}
}

// advise makes a plan under traffic, and reports whether there is one to apply.
func (h *host) advise(policy string) bool {
	judge := filepath.Join(filepath.Dir(h.plan), "lab.yaml")
	if err := os.WriteFile(judge, []byte(faults.Policy(policy, faults.Slow()...)), 0o644); err != nil {
		h.t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// Without the answer to a load there is a plan all the same.
		_, _ = h.peer.Send(wire.Load{Kind: "udp", To: "10.99.0.9:9", Flows: 256, PerSecond: 6000, Seconds: 4})
	}()
	out, end := h.napitune("advise", "--profile", judge, "--no-bpf", "--for", "2s", "--format", "json", "-o", h.plan)
	<-sent
	if end.code != 0 && end.code != 2 {
		h.t.Errorf("advise: %v: %s", end, out)
		return false
	}
	text, err := os.ReadFile(h.plan)
	if err != nil {
		h.t.Error(err)
	}
	var plan struct {
		Changes []struct{ Ref, Before, After string }
	}
	if err := json.Unmarshal(text, &plan); err != nil {
		h.t.Errorf("plan: %v", err)
	}
	for _, c := range plan.Changes {
		h.t.Logf("    planned %s %s → %s", c.Ref, c.Before, c.After)
	}
	return end.code == 2
}

// want puts what the walk wants into the plan that wants nothing, and reports
// whether there is something to apply.
func (h *host) want(wants []Want) bool {
	text, err := os.ReadFile(h.plan)
	if err != nil {
		h.t.Error(err)
		return false
	}
	var plan map[string]any
	if err := json.Unmarshal(text, &plan); err != nil {
		h.t.Error(err)
		return false
	}
	var changes []map[string]any
	for _, want := range wants {
		before, there := h.value(want.Ref)
		if !there {
			continue // a queue that is off
		}
		after := want.Values[0]
		if after == before {
			after = want.Values[1]
		}
		changes = append(changes, map[string]any{"seq": len(changes) + 1, "ref": want.Ref, "before": before, "after": after, "why": "the walk wants it"})
		h.t.Logf("    wanted %s %s → %s", want.Ref, before, after)
	}
	plan["changes"], plan["complete"], plan["applyable"] = changes, true, true
	if text, err = json.Marshal(plan); err == nil {
		err = os.WriteFile(h.plan, text, 0o644)
	}
	if err != nil {
		h.t.Error(err)
		return false
	}
	h.walked++
	return len(changes) > 0
}

// value reads a setting as plans have it. It asks the kernel and not napitune,
// which is what is tested.
func (h *host) value(ref string) (string, bool) {
	words := strings.Split(ref, "/")
	name := words[len(words)-1]
	path := ""
	switch {
	case name == "feature.rx-gro":
		out, err := exec.Command("ethtool", "-k", "eth0").Output()
		_, rest, found := strings.Cut(string(out), "generic-receive-offload: ")
		fields := strings.Fields(rest)
		if err != nil || !found || len(fields) == 0 {
			return "", false
		}
		return fields[0], true
	case name == "irq.affinity":
		side, queue, _ := strings.Cut(words[1], "-")
		action := map[string]string{"rx": "input", "tx": "output"}[side]
		paths := glob(h.t, "/proc/irq/*/virtio*-"+action+"."+queue)
		if len(paths) != 1 || len(glob(h.t, "/sys/class/net/eth0/queues/"+words[1])) == 0 {
			return "", false
		}
		path = filepath.Dir(paths[0]) + "/smp_affinity_list"
	case len(words) == 1:
		path = "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	case len(words) == 2:
		path = "/sys/class/net/eth0/" + name
	default:
		path = "/sys/class/net/eth0/queues/" + words[1] + "/" + strings.ReplaceAll(name, ".", "_")
	}
	content, err := faults.ReadFile(path)
	if err != nil {
		return "", false
	}
	text := strings.TrimSpace(string(content))
	if strings.HasSuffix(name, "ps.cpus") {
		text = "0x" + strings.TrimLeft(text[:len(text)-1], "0,") + text[len(text)-1:]
	}
	return text, true
}

func (h *host) apply(s Step) {
	out, end := h.cut(s, "apply", "--yes", "--measure", "off", "--max-disruption", "link", "--owner", "take", h.plan)
	h.t.Logf("    %v: %s", end, lastLine(out))
	switch {
	case end.killed && s.Signal == "KILL":
		h.met[KilledApply]++
	case end.code == 0:
		h.met[Applied]++
		h.now.open = true
	case end.amid && s.Signal == "INT":
		h.interrupted(out, end)
	case end.amid && s.Script != "" && (end.code == 3 || end.code == 4):
		h.now.open = end.code == 4
	default:
		h.t.Errorf("apply: %v: %s", end, out)
	}
}

// interrupted holds an apply that met Ctrl-C to what README.md promises, before
// anything else puts settings back: nothing explains a rest, the NIC is there.
func (h *host) interrupted(out string, end ending) {
	h.met[Interrupted]++
	if end.killed || end.code != 3 && end.code != 130 {
		h.t.Errorf("apply that met Ctrl-C: %v: %s", end, out)
	}
	now := h.read()
	for _, name := range slices.Sorted(maps.Keys(h.now.recorded.changed(now))) {
		h.t.Errorf("after Ctrl-C %s was %q, is %q", name, h.now.recorded[name], now[name])
	}
}

// rollback is repeated after a kill, as a person would, until it says that
// nothing is left to do or what it leaves alone.
func (h *host) rollback(s Step) {
	if s.Signal != "" || s.Script != "" {
		out, end := h.cut(s, "rollback")
		h.t.Logf("    %v: %s", end, lastLine(out))
		if end.killed && s.Signal == "KILL" {
			h.met[CutRollback]++
			// Its last act may have been the one that ends the transaction.
			h.now.open = false
		} else {
			h.ended(out, end)
		}
		if s.Script != "" {
			if end.amid {
				h.met[CutRollback]++
			}
			return // the next rollback follows when the NIC is back
		}
	}
	out, end := h.napitune("rollback")
	h.t.Logf("    %v: %s", end, out)
	h.ended(out, end)
	if h.now.code == 4 {
		h.left++
	}
}

// ended judges the end of a rollback that nobody killed.
func (h *host) ended(out string, end ending) {
	h.now.code = end.code
	switch {
	case end.killed:
	case end.code == 0:
		h.now.open = false
		return
	case end.code == 4 && (h.now.gone || len(h.now.disturbed) > 0):
		return
	case end.code == 1 && !h.now.open && strings.Contains(out, "no such transaction"):
		h.now.code = 0
		return
	}
	h.t.Errorf("rollback: %v, something to roll back %v, NIC gone %v, %d disturbed: %s", end, h.now.open, h.now.gone, len(h.now.disturbed), out)
}

func (h *host) check() {
	now := h.read()
	recorded, disturbed := h.now.recorded, h.now.disturbed
	for _, name := range slices.Sorted(maps.Keys(recorded.changed(now))) {
		if left, ok := disturbed[name]; ok && left == now[name] {
			continue
		}
		h.t.Errorf("%s was %q, is %q, was left at %q by a disturbance", name, recorded[name], now[name], disturbed[name])
	}
	out, end := h.napitune("status", "--format", "json")
	if end.code != 0 && end.code != 4 {
		h.t.Errorf("status: %v: %s", end, out)
	}
	var status struct {
		Transactions []struct {
			ID, State  string
			Unfinished bool
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		h.t.Errorf("status: %v: %s", err, out)
	}
	for _, tx := range status.Transactions {
		// What a rollback that ended with 4 could not restore waits for a person.
		rest := tx.State == "dirty" && h.now.code == 4
		if tx.Unfinished && !rest || tx.State == "confirmed" {
			h.t.Errorf("transaction %s is left %s", tx.ID, tx.State)
		}
		h.t.Logf("    forget %s (%s)", tx.ID, tx.State)
		_, _ = h.napitune("forget", "--yes", tx.ID)
	}
}

// ending is how a command ended.
type ending struct {
	code   int
	amid   bool // it was at work when the signal or the script came
	killed bool // by a signal
}

func (e ending) String() string {
	return fmt.Sprintf("ended with %d, at work %v, by a signal %v", e.code, e.amid, e.killed)
}

// napitune runs the command to its end.
func (h *host) napitune(args ...string) (string, ending) {
	return h.cut(Step{}, args...)
}

// cut runs the command. When it has begun to write its journal, it gets the
// step's signal, or the step's script runs beside it: the script runs in any
// case, since the walk goes on from a host without NIC.
func (h *host) cut(s Step, args ...string) (string, ending) {
	command := exec.Command("napitune", args...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	var err error
	var end ending
	switch {
	case s.Signal != "":
		end.amid, err = faults.Interrupt(command, s.After, func(p *os.Process) {
			// It may have ended by itself.
			_ = p.Signal(s.signal())
		})
	case s.Script != "":
		end.amid, err = faults.Interrupt(command, s.After, func(*os.Process) { h.takeAway(s) })
	default:
		err = command.Run()
	}
	if strings.Contains(out.String(), "panic:") {
		h.t.Errorf("napitune %s: %s", args[0], out.String())
	}
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		h.t.Fatal(err)
	}
	if s.Script != "" && !end.amid {
		h.takeAway(s)
	}
	end.code, end.killed = command.ProcessState.ExitCode(), faults.Killed(err)
	return strings.TrimSpace(out.String()), end
}

func (s Step) signal() os.Signal {
	if s.Signal == "INT" {
		return syscall.SIGINT
	}
	return syscall.SIGKILL
}

func lastLine(text string) string {
	lines := strings.Split(text, "\n")
	return lines[len(lines)-1]
}

// state is every setting by name. Interrupts go by the name of their action:
// a NIC that was unplugged may get other numbers.
type state map[string]string

// changed is what differs in a later state, with the values there.
func (s state) changed(later state) state {
	out := state{}
	for name, value := range later {
		if was, ok := s[name]; !ok || was != value {
			out[name] = value
		}
	}
	for name := range s {
		if _, ok := later[name]; !ok {
			out[name] = ""
		}
	}
	return out
}

func (h *host) read() state {
	out := state{}
	for _, pattern := range []string{
		"/sys/class/net/eth0/queues/*/*_cpus", "/sys/class/net/eth0/queues/*/*_rxqs", "/sys/class/net/eth0/queues/*/rps_flow_cnt",
		"/sys/class/net/eth0/gro_flush_timeout", "/sys/class/net/eth0/napi_defer_hard_irqs", "/sys/class/net/eth0/threaded",
		"/sys/class/net/eth0/tx_queue_len", "/proc/sys/net/core/*", "/proc/sys/net/ipv4/ip_forward",
	} {
		h.readFiles(out, pattern, func(path string) string { return path })
	}
	for _, action := range glob(h.t, "/proc/irq/*/virtio*put.*") {
		h.readFiles(out, filepath.Dir(action)+"/smp_affinity_list", func(string) string { return "interrupt " + filepath.Base(action) })
	}
	for _, view := range []string{"-k", "-l", "-g", "-c", "-a", "-x"} {
		// What a device has not is an error, and state too.
		text, _ := exec.Command("ethtool", view, "eth0").Output()
		if view == "-x" {
			// Its first line tells the number of queues, which -l shows.
			_, text, _ = bytes.Cut(text, []byte("\n"))
		}
		out["ethtool "+view] = string(text)
	}
	return out
}

func (h *host) readFiles(into state, pattern string, name func(string) string) {
	for _, path := range glob(h.t, pattern) {
		content, err := faults.ReadFile(path)
		if err != nil {
			continue // for writing only, or without a value: one queue has no XPS
		}
		into[name(path)] = string(content)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

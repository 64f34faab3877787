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
	h := &host{t: t, peer: peer, plan: filepath.Join(t.TempDir(), "plan.json")}
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
	t.Logf("seed %d on %+v: %d rounds, %d failed; %d applied, %d applies and %d rollbacks cut short, the NIC was gone %d times, %d rollbacks left something",
		*seed, m, h.rounds, h.failed, h.applied, h.cutApplies, h.cutRollbacks, h.gone, h.left)
}

// host is the guest with a count of what was done to it.
type host struct {
	t                                                             *testing.T
	peer                                                          *wire.Peer
	plan                                                          string
	rounds, failed, applied, cutApplies, cutRollbacks, gone, left int
}

func (h *host) shell(text string) {
	h.t.Helper()
	if out, err := exec.Command("sh", "-c", text).CombinedOutput(); err != nil {
		// A CPU that is gone cannot be in an affinity: the walk goes on.
		h.t.Logf("    %v: %s", err, out)
	}
}

// round walks the steps and checks. What a disturbance changed may be as it
// left it or as the rollback would have it, and nothing third; everything else
// must be as it was before the apply.
func (h *host) round(steps []Step) {
	h.rounds++
	recorded, disturbed := state{}, state{}
	code := 0
	for _, s := range steps {
		h.t.Log(s)
		switch s.Verb {
		case Fault:
			h.shell(s.Script)
		case Apply:
			planned := h.advise(s.Policy)
			recorded = h.read()
			if planned {
				h.apply(s)
			}
		case Disturb:
			before := h.read()
			h.shell(s.Script)
			if strings.Contains(s.Script, unplug) {
				h.gone++
			}
			maps.Copy(disturbed, before.changed(h.read()))
		case Rollback:
			code = h.rollback(s)
		}
	}
	h.check(recorded, disturbed, code)
	h.shell("for f in /sys/devices/system/cpu/cpu[1-9]*/online; do read on <$f; [ $on = 1 ] || echo 1 >$f; done; ip link set eth0 up")
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
	out, code := h.napitune("advise", "--profile", judge, "--no-bpf", "--for", "2s", "--format", "json", "-o", h.plan)
	<-sent
	if code != 0 && code != 2 {
		h.t.Errorf("advise ended with %d: %s", code, out)
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
	return code == 2
}

func (h *host) apply(s Step) {
	h.count(s, &h.cutApplies)
	out, code := h.cut(s, "apply", "--yes", "--measure", "off", "--max-disruption", "link", "--owner", "take", h.plan)
	h.t.Logf("    ended with %d: %s", code, lastLine(out))
	switch {
	case code == 0:
		h.applied++
	case s.Signal != "" || s.Script != "":
	default:
		h.t.Errorf("apply ended with %d: %s", code, out)
	}
}

// rollback is repeated after a kill, as a person would, until it says that
// nothing is left to do or what it leaves alone.
func (h *host) rollback(s Step) int {
	h.count(s, &h.cutRollbacks)
	if s.Signal != "" || s.Script != "" {
		out, code := h.cut(s, "rollback")
		h.t.Logf("    ended with %d: %s", code, lastLine(out))
	}
	if s.Script != "" {
		return 0 // the next rollback follows when the NIC is back
	}
	out, code := h.napitune("rollback")
	h.t.Logf("    ended with %d: %s", code, out)
	if code == 4 {
		h.left++
	}
	return code
}

// count keeps how often programs were cut short, and how.
func (h *host) count(s Step, cut *int) {
	if s.Signal != "" {
		*cut++
	}
	if s.Script != "" {
		h.gone++
	}
}

func (h *host) check(recorded, disturbed state, code int) {
	now := h.read()
	for _, name := range slices.Sorted(maps.Keys(recorded.changed(now))) {
		if left, ok := disturbed[name]; ok && left == now[name] {
			continue
		}
		h.t.Errorf("%s was %q, is %q, was left at %q by a disturbance", name, recorded[name], now[name], disturbed[name])
	}
	if code == 4 && len(disturbed) == 0 {
		h.t.Error("rollback ended with 4 though nobody changed anything")
	}
	out, ended := h.napitune("status", "--format", "json")
	if ended != 0 && ended != 4 {
		h.t.Errorf("status ended with %d: %s", ended, out)
	}
	var status struct {
		Transactions []struct{ ID, State string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		h.t.Errorf("status: %v: %s", err, out)
	}
	for _, tx := range status.Transactions {
		h.t.Logf("    forget %s (%s)", tx.ID, tx.State)
		_, _ = h.napitune("forget", "--yes", tx.ID)
	}
}

// napitune runs the command to its end.
func (h *host) napitune(args ...string) (string, int) {
	return h.cut(Step{}, args...)
}

// cut runs the command. When it has begun to write its journal, it gets the
// step's signal, or the step's script runs beside it.
func (h *host) cut(s Step, args ...string) (string, int) {
	command := exec.Command("napitune", args...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	var err error
	switch {
	case s.Signal != "":
		_, err = faults.Interrupt(command, s.After, func(p *os.Process) {
			// It may have ended by itself.
			_ = p.Signal(s.signal())
		})
	case s.Script != "":
		_, err = faults.Interrupt(command, s.After, func(*os.Process) { h.shell(s.Script) })
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
	return strings.TrimSpace(out.String()), command.ProcessState.ExitCode()
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
		content, err := os.ReadFile(path)
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

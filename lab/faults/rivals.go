package faults

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Compared is how one program fared with one fault: a JSON line. Shares are of
// the packets that all CPUs sent up the stack.
type Compared struct {
	Fault       string   `json:"fault"`
	Machine     string   `json:"machine"`
	Tool        string   `json:"tool"`
	Found       []string `json:"found,omitempty"` // what it said is wrong
	Changed     []string `json:"changed"`         // settings that differ after it acted
	Faulty      float64  `json:"faulty"`          // share of the busiest CPU before,
	Treated     float64  `json:"treated"`         // and after it
	Bound       float64  `json:"bound"`           // share of the busiest queue before: less is impossible without RPS
	Predicted   float64  `json:"predicted,omitempty"`
	Split       int      `json:"split"`                // queue pairs on two CPUs after it
	SplitBefore int      `json:"splitbefore"`          // and before
	Stop        string   `json:"stop"`                 // how it was undone; empty: there is no way
	Left        []string `json:"left"`                 // settings not as before it, after undoing
	Flapped     []string `json:"flapped"`              // settings that a link flap took from what it had set
	FlappedTo   float64  `json:"flapped_to"`           // share of the busiest CPU after the flap
	Killed      []string `json:"killed"`               // settings not as before, after it was killed and undone as well as can be
	NotKilled   bool     `json:"not_killed,omitempty"` // nor was its link flapped: both are tried with the first fault only
	Seconds     float64  `json:"seconds"`              // of the guest that acting took
	Error       string   `json:"error,omitempty"`
}

// Tool is a treatment by another program, told by what one types. None of them
// says what is wrong: they act.
type Tool struct {
	Title string
	Needs string // file without which it cannot be tried; empty: none
	Start string // returns when it has done its work; a daemon goes on
	Stop  string // takes it back as its manual says; empty: there is no way
	Kill  string // is killed amid its work, and taken back as well as can be; empty: not tried
}

// Name implements Treatment.
func (t Tool) Name() string { return t.Title }

// Look implements Treatment.
func (Tool) Look(Fault) (Advice, error) { return Advice{}, nil }

// Apply implements Treatment.
func (t Tool) Apply(Fault) error { return shell(t.Start) }

// Undo implements Treatment.
func (t Tool) Undo() error { return shell(t.Stop) }

// Killed is what remains of the tool once it was killed.
func (t Tool) Killed() error { return shell(t.Kill) }

// Tried reports whether the tool is there. Scripts that Debian does not package
// come from a directory of the user's, LAB_FILES on the host.
func (t Tool) Tried() bool {
	_, err := os.Stat(t.Needs)
	return t.Needs == "" || err == nil
}

func shell(text string) error {
	if out, err := exec.Command("sh", "-c", text).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", text, err, out)
	}
	return nil
}

// Tools are the programs that napitune is compared with.
func Tools() []Tool {
	return []Tool{
		{Title: "irqbalance, one pass", Start: "irqbalance --oneshot --foreground >/dev/null 2>&1",
			Kill: "irqbalance --foreground --interval=2 >/dev/null 2>&1 & p=$!; sleep 5; kill -9 $p"},
		tuned("network-throughput"),
		tuned("network-latency"),
		{Title: "perftune.py", Needs: "/lab/bin/perftune.py", Start: "PYTHONPATH=/lab/bin/python.zip python3 /lab/bin/perftune.py --tune net --nic eth0"},
		{Title: "rss-ladder", Needs: "/lab/bin/python.zip",
			Start: `dev=$(basename $(readlink -f /sys/class/net/eth0/device)); PYTHONPATH=/lab/bin/python.zip python3 -c "from netutils_linux_tuning.rss_ladder import RSSLadder as L; L(['--no-color', '$dev', '0'])"`},
	}
}

// tuned runs without D-Bus: what "tuned-adm off" asks the daemon for, it does
// when it is stopped, unless the machine goes down.
func tuned(profile string) Tool {
	start := "mkdir -p /var/log/tuned; rm -f /var/log/tuned/tuned.log; tuned --no-dbus --log=/var/log/tuned/tuned.log --profile " + profile + ` >/dev/null 2>&1 & echo $! >/run/tuned.lab
for i in $(seq 300); do grep -q 'static tuning from profile' /var/log/tuned/tuned.log 2>/dev/null && exit 0; sleep 0.2; done; tail /var/log/tuned/tuned.log; exit 1`
	stop := `p=$(cat /run/tuned.lab); kill $p; for i in $(seq 150); do [ -e /proc/$p/exe ] || exit 0; sleep 0.2; done; exit 1`
	return Tool{
		Title: "tuned " + profile, Start: start, Stop: stop,
		Kill: "(" + start + "); kill -9 $(cat /run/tuned.lab); sleep 1; (" + start + "); (" + stop + ")",
	}
}

// Killed is what remains of an apply that is killed once it has begun to write
// its journal, and of a rollback after it.
func (n *Napitune) Killed() error {
	const journal = "/run/napitune"
	command := exec.Command("napitune", "apply", "--yes", "--max-disruption", "link", n.plan())
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	before := entries(journal)
	if err := command.Start(); err != nil {
		return err
	}
	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for n := 0; n < 20000 && entries(journal) == before; n++ {
		<-pause.C
	}
	for range 5 {
		<-pause.C
	}
	// It may have ended by itself.
	_ = command.Process.Kill()
	_ = command.Wait()
	return n.Undo()
}

// elsewhere are settings that napitune does not touch and others do.
func elsewhere() []string {
	return []string{
		"/proc/sys/vm/swappiness", "/proc/sys/vm/dirty_ratio", "/proc/sys/vm/dirty_background_ratio", "/proc/sys/vm/min_free_kbytes",
		"/proc/sys/net/ipv4/tcp_*mem", "/proc/sys/net/ipv4/udp_mem", "/proc/sys/net/ipv4/tcp_fastopen", "/proc/sys/net/ipv4/tcp_max_syn_backlog",
		"/proc/sys/kernel/numa_balancing", "/proc/sys/kernel/hung_task_timeout_secs", "/proc/sys/kernel/nmi_watchdog", "/proc/sys/kernel/timer_migration",
	}
}

// readWidely reads all that the faults are judged by, and what is elsewhere.
func readWidely(dev string) (Settings, error) {
	out, err := ReadSettings(dev)
	if err != nil {
		return nil, err
	}
	for _, pattern := range elsewhere() {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			out[path] = string(content)
		}
	}
	return out, nil
}

func entries(dir string) int {
	found, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	return len(found)
}

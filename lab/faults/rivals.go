package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/lab"
)

// Compared is how one program fared with one fault: a JSON line. Figures are
// the fault's, for the most part the share of the packets that the busiest CPU
// sent up the stack.
type Compared struct {
	Fault       string   `json:"fault"`
	Machine     string   `json:"machine"`
	Tool        string   `json:"tool"`
	Expected    string   `json:"expected,omitempty"` // the finding there must be; none where nothing is wrong
	Found       []string `json:"found,omitempty"`    // what it said is wrong
	Refused     []string `json:"refused,omitempty"`  // what it tried and could not do, in its own words
	Changed     []string `json:"changed"`            // settings that differ after it acted
	Metric      string   `json:"metric"`
	Lower       bool     `json:"lower"`                  // less of it is better
	Healthy     float64  `json:"healthy"`                // the figure before the fault,
	Faulty      float64  `json:"faulty"`                 // with it,
	Treated     float64  `json:"treated"`                // and once the program had acted
	Bound       float64  `json:"bound"`                  // share of the busiest queue with the fault: without RPS no CPU's can be less
	Predicted   float64  `json:"predicted,omitempty"`    // largest share of one CPU that was foretold,
	Busiest     float64  `json:"busiest,omitempty"`      // and that came, whatever the figure is
	FaultyRate  float64  `json:"faulty_rate,omitempty"`  // throughput as a share of the healthy one just before, median;
	TreatedRate float64  `json:"treated_rate,omitempty"` // the same once the program had acted; 0: not measured
	LowRate     float64  `json:"low_rate,omitempty"`     // least and most of the healthy throughput against itself: the noise
	HighRate    float64  `json:"high_rate,omitempty"`
	Split       int      `json:"split"`       // queue pairs on two CPUs after it
	SplitBefore int      `json:"splitbefore"` // and before
	Stop        string   `json:"stop"`        // how it was undone; empty: there is no way
	Left        []string `json:"left"`        // settings not as before it, after undoing
	Flapped     []string `json:"flapped"`     // settings that a link flap took from what it had set
	NotFlapped  bool     `json:"not_flapped,omitempty"`
	Killed      []string `json:"killed"` // settings not as before, after it was killed and undone as well as can be
	NotKilled   bool     `json:"not_killed,omitempty"`
	Seconds     float64  `json:"seconds"` // of the guest that acting took
	Error       string   `json:"error,omitempty"`
}

// Tried lists the faults that a file of results has. A file that is not there
// has none.
func Tried(path string) (map[string]bool, error) {
	out := map[string]bool{}
	err := eachLine(path, func(r Compared) { out[r.Fault] = true })
	return out, err
}

// Contest lists the faults that other programs are tried on, those that matter
// most first.
func Contest() []Fault {
	four := machine("6.1", 8, virtio(4))
	out := []Fault{
		{Name: "RPS of all queues to one CPU", Machine: four, Prepare: pinPairs, Inject: rpsTo("80"), Load: busy(),
			Finding: "rps-narrows", Changes: []string{"eth0/rx-*/rps.cpus"}, Metric: maxShare()},
		// A backlog of one packet cannot grow by a quarter, which is how bpftune lets it grow.
		{Name: "backlog too short for RPS", Machine: four, Prepare: pinPairs, Inject: rpsTo("aa") + "; sysctl -qw net.core.netdev_max_backlog=8", Load: crowding(),
			Finding: "backlog-drops", Changes: []string{"net.core.netdev_max_backlog"}, Metric: dropped()},
	}
	for _, name := range []string{"all queue interrupts on one CPU", "healthy", "queue pairs split", "one of four queues used",
		"interrupts on isolated CPUs", "packet budget too small for six busy NAPIs", "GRO off",
		"RPS on top of RSS", "RSS table skewed", "XPS reversed", "time limit too small for busy NAPIs", "LRO while forwarding",
		"irqbalance fights"} {
		i := slices.IndexFunc(Table(), func(f Fault) bool { return f.Name == name && f.Machine.Kernel == "6.1" })
		f := Table()[i]
		if f.Metric.Name == "" {
			f.Metric = maxShare()
		}
		if f.Contested {
			// perftune.py tells irqbalance what to leave by its file, and restarts its unit.
			f.Machine.Mode = lab.ModeSystemd
			f.Inject = `echo 'IRQBALANCE_ARGS="--interval=5"' >/etc/default/irqbalance; systemctl start irqbalance; sleep 12`
			f.Undo = "systemctl stop irqbalance"
		}
		out = append(out, f)
	}
	return out
}

// Tool is a treatment by another program, told by what one types.
type Tool struct {
	Title  string
	Needs  string         // file without which it cannot be tried; empty: none
	Start  string         // returns when it has done its work; a daemon goes on
	Stop   string         // takes it back as its manual says; empty: there is no way
	Kill   string         // is killed amid its work, and taken back as well as can be; empty: not tried
	Log    string         // file that a daemon goes on writing to
	Finds  *regexp.Regexp // what its output says is wrong: the first group; nil: it does not say
	Refuse *regexp.Regexp // what it could not do, in its output

	said []byte
}

// Name implements Treatment.
func (t *Tool) Name() string { return t.Title }

// Look implements Treatment.
func (*Tool) Look(Fault) (Advice, error) { return Advice{}, nil }

// Apply implements Treatment.
func (t *Tool) Apply(Fault) (_ Judgement, err error) {
	t.said, err = shell(t.Start)
	return Judgement{}, err
}

// Undo implements Treatment.
func (t *Tool) Undo() error { return quiet(t.Stop) }

// endedBefore is the status of a Kill whose program had ended by itself.
const endedBefore = 77

// Dies is what remains of the tool once it was killed and undone.
func (t *Tool) Dies(Fault) (killed bool, err error) {
	if t.Kill == "" {
		return false, nil
	}
	err = quiet(t.Kill)
	if ended := new(exec.ExitError); errors.As(err, &ended) && ended.ExitCode() == endedBefore {
		return false, nil
	}
	return err == nil, err
}

// told are the different things that its output says by a pattern.
func (t *Tool) told(pattern *regexp.Regexp) []string {
	text := string(t.said)
	if t.Log != "" {
		// A log that is not there says nothing.
		more, _ := os.ReadFile(t.Log)
		text += string(more)
	}
	var out []string
	if pattern == nil {
		return out
	}
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		if one := strings.TrimSpace(match[len(match)-1]); !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out
}

// Tried reports whether the tool is there. Scripts that Debian does not package
// come from a directory of the user's, LAB_FILES on the host.
func (t *Tool) Tried() bool {
	_, err := os.Stat(t.Needs)
	return t.Needs == "" || err == nil
}

func shell(text string) ([]byte, error) {
	out, err := exec.Command("sh", "-c", text).CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", text, err, out)
	}
	return out, nil
}

func quiet(text string) error {
	_, err := shell(text)
	return err
}

// Tools are the programs that napitune is compared with on a fault.
func Tools(f Fault) []*Tool {
	const bpftune = `[ -e /usr/sbin/bpftune ] || { tar -xf /lab/bin/bpftune.tar -C / && ldconfig; }; bpftune -s -R >/run/bpftune.log 2>&1 & echo $! >/run/bpftune.lab; sleep 30`
	const perftune = `PYTHONPATH=/lab/bin/python.zip python3 -u /lab/bin/perftune.py --tune net $(for d in /sys/class/net/eth*; do echo --nic ${d##*/}; done)`
	killNow := fmt.Sprintf("kill -9 $p 2>/dev/null || exit %d", endedBefore) // irqbalance has nothing to do on one CPU and ends
	out := []*Tool{
		{Title: "irqbalance, one pass", Start: "irqbalance --oneshot --foreground 2>&1", Refuse: regexp.MustCompile(`(?m)^.*(?i:cannot|failed).*$`),
			Kill: "irqbalance --foreground --interval=2 >/dev/null 2>&1 & p=$!; sleep 5; " + killNow},
		{Title: "perftune.py", Needs: "/lab/bin/perftune.py", Start: perftune + " 2>&1", Refuse: regexp.MustCompile(`(?m)^.*(?:failed to write|Failed to).*$`),
			Kill: "rm -f /run/perftune.log; " + perftune + ` >/run/perftune.log 2>&1 & p=$!
for i in $(seq 200); do grep -q 'Setting mask' /run/perftune.log && break; sleep 0.1; done; ` + killNow},
		{Title: "bpftune, 30 s", Needs: "/lab/bin/bpftune.tar", Start: bpftune,
			Stop:  `p=$(cat /run/bpftune.lab); kill $p; for i in $(seq 150); do [ -e /proc/$p/exe ] || exit 0; sleep 0.2; done; exit 1`,
			Kill:  bpftune + `; kill -9 $(cat /run/bpftune.lab)`,
			Log:   "/run/bpftune.log",
			Finds: regexp.MustCompile(` change (\S+) from `), Refuse: regexp.MustCompile(`(?m)^.*(?i:could not|failed to|error ).*$`)},
	}
	if f.Contested {
		out = out[1:] // irqbalance is at work already
	}
	// It knows no settings but the affinity of interrupts.
	if slices.Contains([]string{"irq-stacked", "irq-on-isolated-cpu", "queue-pair-split", "irqbalance-active", "rps-narrows", ""}, f.Finding) {
		out = append(out, &Tool{Title: "rss-ladder", Needs: "/lab/bin/python.zip",
			Start: `for eth in /sys/class/net/eth*; do dev=$(basename $(readlink -f $eth/device)); PYTHONPATH=/lab/bin/python.zip python3 -c "from netutils_linux_tuning.rss_ladder import RSSLadder as L; L(['--no-color', '$dev', '0'])" 2>&1; done`})
	}
	// The profiles that tuned comes with place nothing and set none of what is
	// wrong here: what they do is the same with every fault.
	if f.Finding == "" || f.Finding == "irq-stacked" {
		out = append(out, tuned("network-throughput"), tuned("network-latency"))
	}
	if own, known := byHand(f); known {
		out = append(out, own)
	}
	return out
}

// tuned runs without D-Bus: what "tuned-adm off" asks the daemon for, it does
// when it is stopped, unless the machine goes down.
func tuned(profile string) *Tool {
	start := "mkdir -p /var/log/tuned; rm -f /var/log/tuned/tuned.log; tuned --no-dbus --log=/var/log/tuned/tuned.log --profile " + profile + ` >/dev/null 2>&1 & echo $! >/run/tuned.lab
for i in $(seq 300); do grep -q 'static tuning from profile' /var/log/tuned/tuned.log 2>/dev/null && { cat /var/log/tuned/tuned.log; exit 0; }; sleep 0.2; done; tail /var/log/tuned/tuned.log; exit 1`
	stop := `p=$(cat /run/tuned.lab); kill $p; for i in $(seq 150); do [ -e /proc/$p/exe ] || exit 0; sleep 0.2; done; exit 1`
	return &Tool{
		Title: "tuned " + profile, Start: start, Stop: stop, Refuse: regexp.MustCompile(`(?m)^.* ERROR .*$`),
		Kill: "(" + start + "); kill -9 $(cat /run/tuned.lab); sleep 1; (" + start + "); (" + stop + ")",
	}
}

// byHand is tuned with the profile that somebody writes who knows what is
// wrong. tuned 2.20 has no plugin for interrupts, so that a script places them
// and takes them back, as tuned's manual asks of it.
func byHand(f Fault) (*Tool, bool) {
	// Pair Q goes to CPU 2Q of 8, or to CPU Q of the 4 that are not isolated.
	profiles := map[string]string{
		"all queue interrupts on one CPU":            placing(2),
		"queue pairs split":                          placing(2),
		"interrupts on isolated CPUs":                placing(1),
		"RPS of all queues to one CPU":               "[sysfs]\n/sys/class/net/eth0/queues/rx-*/rps_cpus=00\n",
		"backlog too short for RPS":                  "[sysctl]\nnet.core.netdev_max_backlog=1000\n",
		"one of four queues used":                    "[net]\ndevices=eth0\nchannels=combined 4\n",
		"packet budget too small for six busy NAPIs": "[sysctl]\nnet.core.netdev_budget=600\n",
		"time limit too small for busy NAPIs":        "[sysctl]\nnet.core.netdev_budget_usecs=16000\n",
		"RPS on top of RSS":                          "[sysfs]\n/sys/class/net/eth0/queues/rx-*/rps_cpus=0\n",
		"GRO off":                                    "[net]\ndevices=eth0\nfeatures=gro on\n",
		"XPS reversed":                               "[sysfs]\n" + sendingOn(4),
		"LRO while forwarding":                       "[net]\ndevices=eth0\nfeatures=lro off\n",
		"irqbalance fights":                          placing(2),
	}
	profile, known := profiles[f.Name]
	if !known {
		return nil, false
	}
	const name = "by-hand"
	t := tuned(name)
	write := "mkdir -p /etc/tuned/" + name + "; cat >/etc/tuned/" + name + "/tuned.conf <<'X'\n[main]\nsummary=" + f.Name + "\n" + profile + "X\n" + script
	t.Title, t.Start, t.Kill = "tuned, profile by hand", write+t.Start, write+t.Kill
	return t, true
}

// sendingOn gives CPU Q the transmit queue Q.
func sendingOn(queues int) string {
	lines := ""
	for q := range queues {
		lines += fmt.Sprintf("/sys/class/net/eth0/queues/tx-%d/xps_cpus=%x\n", q, 1<<q)
	}
	return lines
}

func placing(step int) string {
	return fmt.Sprintf("[variables]\nstep=%d\n[script]\nscript=${i:PROFILE_DIR}/place.sh\n", step)
}

// script is the profile's place.sh; tuned hands it the profile's variables. An
// irqbalance at work would undo it, and is ended first.
const script = `cat >/etc/tuned/by-hand/place.sh <<'X'
#!/bin/sh
saved=/run/by-hand.saved
case $1 in
start) : >$saved
	if systemctl is-active -q irqbalance 2>/dev/null; then systemctl stop irqbalance; : >$saved.balanced; fi
	for f in /proc/irq/*/virtio*put.*; do
		l=${f%/*}/smp_affinity_list
		echo "$l $(cat $l)" >>$saved
		echo $((${f##*.} * TUNED_step)) >$l
	done ;;
stop) while read -r l value; do echo $value >$l; done <$saved
	if rm $saved.balanced 2>/dev/null; then systemctl start irqbalance; fi ;;
esac
X
chmod +x /etc/tuned/by-hand/place.sh
`

// elsewhere are settings that napitune does not touch and others do.
func elsewhere() []string {
	return []string{
		"/proc/sys/vm/swappiness", "/proc/sys/vm/dirty_ratio", "/proc/sys/vm/dirty_background_ratio", "/proc/sys/vm/min_free_kbytes",
		"/proc/sys/net/ipv4/tcp_*mem", "/proc/sys/net/ipv4/udp_mem", "/proc/sys/net/ipv4/tcp_fastopen", "/proc/sys/net/ipv4/tcp_max_syn_backlog",
		"/proc/sys/net/ipv4/tcp_congestion_control", "/proc/sys/net/ipv4/tcp_allowed_congestion_control",
		"/proc/sys/kernel/numa_balancing", "/proc/sys/kernel/hung_task_timeout_secs", "/proc/sys/kernel/nmi_watchdog", "/proc/sys/kernel/timer_migration",
		"/etc/default/irqbalance",
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

// become makes the settings of a NIC what they were when target was read, and
// checks that they are.
func (s Settings) become(dev string, target Settings) error {
	if len(target.Diff(s)) == 0 {
		return nil
	}
	if err := s.write(dev, target); err != nil {
		return err
	}
	now, err := readWidely(dev)
	if err != nil {
		return err
	}
	if differs := target.Diff(now); len(differs) > 0 {
		return fmt.Errorf("settings cannot be put back: %s", strings.Join(differs, "; "))
	}
	return nil
}

// write brings target about: channels first, which reset others, then the RSS
// table and files, and then offloads: forwarding takes LRO away when it begins.
func (s Settings) write(dev string, target Settings) error {
	now := s
	for _, do := range []func(string, Settings, Settings) (bool, error){becomeChannels, becomeTable, becomeFiles, becomeOffloads} {
		done, err := do(dev, now, target)
		if err == nil && done {
			now, err = readWidely(dev)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func becomeFiles(_ string, now, target Settings) (bool, error) {
	const forwards = "/proc/sys/net/ipv4/ip_forward"
	return now[forwards] != target[forwards], target.Restore(now)
}

var combined = regexp.MustCompile(`Combined:\s+(\d+)`)

func becomeChannels(dev string, now, target Settings) (bool, error) {
	view := "ethtool -l " + dev
	// The first number is the most that are possible.
	numbers := combined.FindAllStringSubmatch(target[view], 2)
	if now[view] == target[view] || len(numbers) < 2 {
		return false, nil
	}
	return true, quiet("ethtool -L " + dev + " combined " + numbers[1][1])
}

func becomeOffloads(dev string, now, target Settings) (done bool, err error) {
	view := "ethtool -k " + dev
	for long, short := range map[string]string{"generic-receive-offload": "gro", "large-receive-offload": "lro", "ntuple-filters": "ntuple"} {
		line := regexp.MustCompile(`(?m)^` + long + `: (on|off)`)
		was, is := line.FindStringSubmatch(now[view]), line.FindStringSubmatch(target[view])
		if was == nil || is == nil || was[1] == is[1] {
			continue
		}
		if err := quiet("ethtool -K " + dev + " " + short + " " + is[1]); err != nil {
			return false, err
		}
		done = true
	}
	return done, nil
}

var entries = regexp.MustCompile(`(?m)^ *\d+:((?: +\d+)+) *$`)

// spread are the queues of an RSS table, as "ethtool -x" shows it.
func spread(view string) []int {
	var out []int
	for _, line := range entries.FindAllStringSubmatch(view, -1) {
		for _, word := range strings.Fields(line[1]) {
			queue, err := strconv.Atoi(word)
			if err != nil {
				return nil
			}
			out = append(out, queue)
		}
	}
	return out
}

// becomeTable makes tables that ethtool knows how to: queues in turn, or one
// after another by weight.
func becomeTable(dev string, now, target Settings) (bool, error) {
	view := "ethtool -x " + dev
	table := spread(target[view])
	if now[view] == target[view] || len(table) == 0 {
		return false, nil
	}
	queues := slices.Max(table) + 1
	shape, weights := fmt.Sprintf("equal %d", queues), make([]int, queues)
	for i, queue := range table {
		weights[queue]++
		if queue != i%queues {
			shape = ""
		}
	}
	if shape == "" {
		shape = "weight " + strings.Trim(fmt.Sprint(weights), "[]")
	}
	return true, quiet("ethtool -X " + dev + " " + shape)
}

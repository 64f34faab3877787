package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Origin says where figures come from. Results that are kept in a file have
// theirs beside it, a JSON line for each run that added to them.
type Origin struct {
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	Machine  string    `json:"machine"`   // processor and kernel
	Commit   string    `json:"commit"`    // of the project, short; a plus sign after it: with changes
	LoadLow  float64   `json:"load_low"`  // least and most of the load average of a minute,
	LoadHigh float64   `json:"load_high"` // looked at before, after and every ten seconds

	runs int // that it spans, if more than one
}

// originFile is beside a file of results.
func originFile(results string) string { return results + ".origin" }

// Watch notes the machine and its load from now until the returned function is
// called, which makes the Origin. Root is a directory of the project.
func Watch(root string) func() Origin {
	o := Origin{Began: time.Now(), Machine: machine(), Commit: commit(root)}
	o.LoadLow = load()
	o.LoadHigh = o.LoadLow
	stop, stopped := make(chan struct{}), make(chan struct{})
	look := func() {
		now := load()
		o.LoadLow, o.LoadHigh = min(o.LoadLow, now), max(o.LoadHigh, now)
	}
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				look()
			}
		}
	}()
	return func() Origin {
		close(stop)
		<-stopped
		look()
		o.Ended = time.Now()
		return o
	}
}

// Sign adds an origin to those of a file of results.
func Sign(results string, o Origin) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(originFile(results), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = out.Write(append(line, '\n'))
	return errors.Join(err, out.Close())
}

// originOf is one origin for all the runs that a file of results is of; ok is
// false if nobody signed it.
func originOf(results string) (o Origin, ok bool, err error) {
	text, err := os.ReadFile(originFile(results))
	if errors.Is(err, os.ErrNotExist) {
		return Origin{}, false, nil
	}
	if err != nil {
		return Origin{}, false, err
	}
	runs, err := decode[Origin](string(text))
	if err != nil {
		return Origin{}, false, fmt.Errorf("%s: %w", originFile(results), err)
	}
	return together(runs), true, nil
}

// together spans all runs; what they do not share is listed.
func together(runs []Origin) Origin {
	out := runs[0]
	out.runs = len(runs)
	for _, r := range runs[1:] {
		if r.Began.Before(out.Began) {
			out.Began = r.Began
		}
		if r.Ended.After(out.Ended) {
			out.Ended = r.Ended
		}
		out.LoadLow, out.LoadHigh = min(out.LoadLow, r.LoadLow), max(out.LoadHigh, r.LoadHigh)
		out.Machine, out.Commit = listed(out.Machine, r.Machine, "; "), listed(out.Commit, r.Commit, ", ")
	}
	return out
}

func listed(all, one, between string) string {
	for have := range strings.SplitSeq(all, between) {
		if have == one {
			return all
		}
	}
	return all + between + one
}

// String is the line below the figures.
func (o Origin) String() string {
	in := "in"
	if o.runs > 1 {
		in = fmt.Sprintf("in %d runs within", o.runs)
	}
	return fmt.Sprintf("Measured %s at commit %s on %s, under a load of %.1f to %.1f, %s %s.",
		o.Began.UTC().Format(time.DateOnly), o.Commit, o.Machine, o.LoadLow, o.LoadHigh, in, o.Ended.Sub(o.Began).Round(time.Second))
}

// load is the load average of the last minute; 0 where there is none to read.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	word, _, _ := strings.Cut(string(text), " ")
	value, err := strconv.ParseFloat(word, 64)
	if err != nil {
		return 0
	}
	return value
}

// commit is what is checked out at a directory.
func commit(root string) string {
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	name, err := git("rev-parse", "--short", "HEAD")
	if err != nil {
		return "unknown"
	}
	if changed, err := git("status", "--porcelain", "--untracked-files=no"); err != nil || changed != "" {
		name += "+"
	}
	return name
}

// machine is the processor's model, how many there are, and the kernel.
func machine() string {
	model, cpus := "an unknown processor", 0
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			model, cpus = strings.TrimSpace(value), cpus+1
		}
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		release = []byte("of unknown release")
	}
	return fmt.Sprintf("%d CPUs of %s, Linux %s", cpus, model, strings.TrimSpace(string(release)))
}

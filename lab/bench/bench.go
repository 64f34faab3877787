// Package bench measures what BENCHMARKS.md publishes and writes it.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Section is one chapter of the document: a command and what it prints.
type Section struct {
	Name    string // of the file that its output is kept in
	Title   string
	Text    string                                    // what the figures mean and what they do not
	Shell   string                                    // run in the root of the project; RESULTS is a file for JSON lines
	Derived bool                                      // its command reads what others left: run every time
	Slow    bool                                      // needs guests or an idle machine, and many minutes
	Extract func(out, results string) (string, error) // the Markdown of the figures
}

// Bench is a run: what was measured is kept and not measured again, so that
// one that ended early goes on where it was.
type Bench struct {
	Root string // of the project
	Dir  string // where the output is kept
	Slow bool   // measure slow sections too; else only those kept are shown
	Log  func(format string, args ...any)
}

// Document measures what is not kept and returns the whole text. A section that
// cannot be measured says so, and why; the error names all of them.
func (b Bench) Document(ctx context.Context, sections []Section) (string, error) {
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return "", err
	}
	var out strings.Builder
	var errs []error
	out.WriteString(head)
	for _, s := range sections {
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\n    %s\n\n", s.Title, strings.TrimSpace(s.Text), strings.ReplaceAll(s.Shell, "\n", "\n    "))
		figures, err := b.section(ctx, s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
			figures = "Not measured.\n"
		}
		out.WriteString(figures)
	}
	return out.String(), errors.Join(errs...)
}

const head = `# Figures

Written by ` + "`go run ./lab/cmd/lab bench --slow`" + `: every figure was measured, by the command above it. Each says when, on
what and how busy that machine was; a busy machine makes times longer, so compare what stands in one table and not across
machines. Guests are emulated: shares, counters and states in them are those of a real machine, rates and times are not
(lab/README.md), and advice in them is judged by the lab's policy, with two thresholds for slow CPUs, not by the default one.
`

func (b Bench) section(ctx context.Context, s Section) (string, error) {
	kept, results := filepath.Join(b.Dir, s.Name+".out"), filepath.Join(b.Dir, s.Name+".json")
	if _, err := os.Stat(kept); err != nil || s.Derived {
		if s.Slow && !b.Slow {
			return "", errors.New("slow, and not asked for: --slow measures it")
		}
		if err := b.measure(ctx, s, kept, results); err != nil {
			return "", err
		}
	}
	text, err := os.ReadFile(kept)
	if err != nil {
		return "", err
	}
	where, out, _ := strings.Cut(string(text), "\n")
	lines, err := os.ReadFile(results)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	figures, err := s.Extract(out, string(lines))
	return figures + "\n" + where + "\n", err
}

// measure keeps the output of a section below a line about the machine. A
// command that fails is not kept.
func (b Bench) measure(ctx context.Context, s Section, kept, results string) error {
	b.Log("%s: %s", s.Name, s.Shell)
	start, load := time.Now(), loadAverage()
	command := exec.CommandContext(ctx, "sh", "-c", s.Shell)
	command.Dir, command.Env = b.Root, append(os.Environ(), "RESULTS="+results)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(out.String(), 5))
	}
	where := fmt.Sprintf("Measured %s on %s, load %s when it began, %s when it ended after %s.\n",
		start.UTC().Format(time.DateOnly), machine(), load, loadAverage(), time.Since(start).Round(time.Second))
	return os.WriteFile(kept, append([]byte(where), out.Bytes()...), 0o644)
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
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

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// fenced shows lines as they were printed, without what go test puts before a
// line of a log.
func fenced(text string, keep func(line string) bool) (string, error) {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n ")
		if at := strings.Index(line, "_test.go:"); at >= 0 {
			_, line, _ = strings.Cut(line[at+len("_test.go:"):], ": ")
		}
		if keep(line) {
			lines = append(lines, line)
		}
	}
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		return "", errors.New("the command printed no figures")
	}
	return "```\n" + strings.Join(lines, "\n") + "\n```\n", nil
}

// frame is what go test prints around everything.
func frame(line string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return slices.Contains([]string{"===", "---", "PASS", "ok"}, word) || strings.HasPrefix(line, "ok ")
}

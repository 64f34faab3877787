package archive

import (
	"path"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

// userHZ is the number of ticks per second that the kernel shows to user space
// (include/asm-generic/param.h).
const userHZ = 100

// commLen is the longest process name: TASK_COMM_LEN without its end (include/linux/sched.h).
const commLen = 15

// parseProcesses reads the output of ps in the forms that sosreports keep (ps
// aux, ps -elf, ps axo with a headline). Columns are found by the headline; the
// command is the last one. Only watched processes are kept. CPU is -1 where
// there is no PSR column.
func parseProcesses(text string) ([]host.Process, error) {
	var columns []string
	processes := []host.Process{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if columns == nil {
			if isPsHeadline(fields) {
				columns = fields
			}
			continue
		}
		if p, ok := processOf(columns, fields); ok && host.Watched(p.Comm) {
			processes = append(processes, p)
		}
	}
	if columns == nil {
		return nil, textError(text)
	}
	return processes, nil
}

func isPsHeadline(fields []string) bool {
	pid := false
	for _, f := range fields {
		pid = pid || f == "PID"
	}
	if !pid {
		return false
	}
	switch fields[len(fields)-1] {
	case "COMMAND", "CMD", "ARGS":
		return true
	}
	return false
}

func processOf(columns, fields []string) (host.Process, bool) {
	last := len(columns) - 1
	if len(fields) <= last {
		return host.Process{}, false
	}
	p := host.Process{CPU: -1}
	extra := 0
	for i, column := range columns[:last] {
		value := fields[min(i+extra, len(fields)-1)]
		switch column {
		case "PID":
			p.PID = count(value)
		case "PSR":
			p.CPU = count(value)
		case "STARTED": // lstart is five words: Mon Jan  2 15:04:05 2006
			extra += 4
		case "TIME":
			p.Ticks = ticks(value)
		}
	}
	if p.PID == 0 || last+extra >= len(fields) {
		return host.Process{}, false
	}
	p.Comm, p.Args = command(fields[last+extra:])
	return p, true
}

// command splits what ps shows: "[ksoftirqd/0]" is a kernel thread, and an
// interpreter stands before the script that gave the process its name.
func command(words []string) (comm, args string) {
	if thread, ok := strings.CutPrefix(words[0], "["); ok && strings.HasSuffix(thread, "]") {
		return strings.TrimSuffix(thread, "]"), ""
	}
	name := path.Base(strings.TrimSuffix(words[0], ":"))
	if strings.HasPrefix(name, "python") || name == "platform-python" {
		for _, word := range words[1:] {
			if !strings.HasPrefix(word, "-") {
				name = path.Base(word)
				break
			}
		}
	}
	return name[:min(len(name), commLen)], strings.Join(words, " ")
}

// ticks reads "[[days-]hours:]minutes:seconds".
func ticks(text string) uint64 {
	days, clock, ok := strings.Cut(text, "-")
	if !ok {
		days, clock = "0", text
	}
	seconds := uint64(0)
	for part := range strings.SplitSeq(clock, ":") {
		seconds = seconds*60 + uint64(count(part))
	}
	return (uint64(count(days))*24*60*60 + seconds) * userHZ
}

package detect

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// errCut is the reason for a last line that does not end: its last number or
// name may be only the beginning of the real one.
var errCut = errors.New("the last line is cut off")

// lines hands out the complete lines of a file together with their numbers.
// What follows the last line feed is in rest.
type lines struct {
	rest   []byte
	number int
}

func (l *lines) next() ([]byte, bool) {
	end := bytes.IndexByte(l.rest, '\n')
	if end < 0 {
		return nil, false
	}
	line := l.rest[:end]
	l.rest = l.rest[end+1:]
	l.number++
	return line, true
}

// cut reports whether the file ended in the middle of a line.
func (l *lines) cut() bool { return len(l.rest) > 0 }

// token cuts the first word off a line; both are empty at the end.
func token(line []byte) (word, rest []byte) {
	start := 0
	for start < len(line) && isSpace(line[start]) {
		start++
	}
	end := start
	for end < len(line) && !isSpace(line[end]) {
		end++
	}
	return line[start:end], line[end:]
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }

// cpuHeader reads the "CPU0 CPU1 …" line of /proc/interrupts and
// /proc/softirqs.
func cpuHeader(line []byte) ([]int, error) {
	var cpus []int
	last := -1
	for {
		var word []byte
		word, line = token(line)
		if len(word) == 0 {
			break
		}
		digits, ok := bytes.CutPrefix(word, []byte("CPU"))
		cpu, err := decimal(digits)
		if !ok || err != nil || int(cpu) > maxCPU {
			return nil, fmt.Errorf("header: %q is not a CPU", clip(word))
		}
		if int(cpu) <= last {
			return nil, fmt.Errorf("header: CPU%d follows CPU%d", cpu, last)
		}
		last = int(cpu)
		cpus = append(cpus, last)
	}
	if len(cpus) == 0 {
		return nil, errors.New("header: no CPU is named")
	}
	return cpus, nil
}

// maxCPU bounds what a hostile file can make us allocate; see cpuset.MaxCPU.
const maxCPU = 65535

// decimal reads a whole word as a 32-bit number. Per-CPU counters of the
// kernel are unsigned int, so a larger number is not one of them.
func decimal(word []byte) (uint32, error) {
	if len(word) == 0 || len(word) > 10 {
		return 0, fmt.Errorf("%q is not a 32-bit number", clip(word))
	}
	var n uint64
	for _, c := range word {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%q is not a number", clip(word))
		}
		n = n*10 + uint64(c-'0')
	}
	if n > 1<<32-1 {
		return 0, fmt.Errorf("%q is not a 32-bit number", clip(word))
	}
	return uint32(n), nil
}

// counts appends the leading numbers of a line to into, at most limit of
// them, and returns what follows. It looks at every byte once; files of large
// machines have more than a million numbers.
func counts(line []byte, limit int, into []uint32) (out []uint32, rest []byte, err error) {
	i, found := 0, 0
	for found < limit {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		start := i
		var n uint64
		for i < len(line) && line[i]-'0' <= 9 {
			n = n*10 + uint64(line[i]-'0')
			i++
		}
		if i == start || (i < len(line) && !isSpace(line[i])) {
			return into, line[start:], nil // a word: the text begins
		}
		if i-start > 10 || n > 1<<32-1 {
			return into, nil, fmt.Errorf("count %q does not fit 32 bits", clip(line[start:i]))
		}
		into = append(into, uint32(n))
		found++
	}
	return into, line[i:], nil
}

// startsWithNumber reports whether the first word is all digits.
func startsWithNumber(text []byte) bool {
	word, _ := token(text)
	for _, c := range word {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(word) > 0
}

// clip keeps quoted input in messages readable.
func clip[T string | []byte](text T) string {
	const limit = 40
	if len(text) <= limit {
		return string(text)
	}
	return string(text[:limit]) + "…"
}

func atoi(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0
}

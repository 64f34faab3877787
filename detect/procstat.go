package detect

import (
	"bytes"
	"fmt"
	"strconv"
)

// parseStat reads the cpuN and btime lines of /proc/stat (fs/proc/stat.c).
// Kernels before 2.6.33 have fewer columns; what is missing stays zero, which
// is what such a kernel accounts there.
func parseStat(data []byte) (CPUTimes, []error) {
	out := CPUTimes{CPUs: map[int]CPUTime{}}
	var errs []error
	in := lines{rest: data}
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		if err := statLine(line, &out); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if in.cut() {
		errs = append(errs, errCut)
	}
	if len(out.CPUs) == 0 && out.BootTime == 0 {
		return CPUTimes{}, append(errs, fmt.Errorf("no CPU in %d lines", in.number))
	}
	return out, errs
}

// statMinColumns: user, nice, system and idle have been there always.
const statMinColumns = 4

func statLine(line []byte, out *CPUTimes) error {
	label, rest := token(line)
	if string(label) == "btime" {
		word, _ := token(rest)
		t, err := strconv.ParseInt(string(word), 10, 64)
		if err != nil || t < 0 {
			return fmt.Errorf("btime: %q is not a time", clip(word))
		}
		out.BootTime = t
		return nil
	}
	digits, ok := bytes.CutPrefix(label, []byte("cpu"))
	if !ok || len(digits) == 0 {
		return nil // the total and lines of other things
	}
	cpu, err := decimal(digits)
	if err != nil || cpu > maxCPU {
		return fmt.Errorf("%q is not a CPU", clip(label))
	}
	values, err := wide(rest)
	if err != nil {
		return fmt.Errorf("cpu%d: %w", cpu, err)
	}
	if len(values) < statMinColumns {
		return fmt.Errorf("cpu%d: %d columns", cpu, len(values))
	}
	if _, twice := out.CPUs[int(cpu)]; twice {
		return fmt.Errorf("cpu%d comes twice", cpu)
	}
	var v [10]uint64
	copy(v[:], values)
	out.CPUs[int(cpu)] = CPUTime{User: v[0], Nice: v[1], System: v[2], Idle: v[3], IOWait: v[4], IRQ: v[5], Softirq: v[6], Steal: v[7], Guest: v[8], GuestNice: v[9]}
	return nil
}

// wide reads a whole line of 64-bit numbers.
func wide(line []byte) ([]uint64, error) {
	var out []uint64
	for {
		var word []byte
		word, line = token(line)
		if len(word) == 0 {
			return out, nil
		}
		n, err := strconv.ParseUint(string(word), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", clip(word))
		}
		out = append(out, n)
	}
}

package detect

import (
	"bytes"
	"fmt"
)

// parseSoftirqs reads /proc/softirqs (fs/proc/softirqs.c): a header with all
// possible CPUs and one line per vector. A line whose length differs from the
// header is left out and reported.
func parseSoftirqs(data []byte) (Softirqs, []error) {
	in := lines{rest: data}
	header, ok := in.next()
	if !ok {
		return Softirqs{}, []error{errCut}
	}
	cpus, err := cpuHeader(header)
	if err != nil {
		return Softirqs{}, []error{err}
	}
	out := Softirqs{CPUs: cpus, Counts: map[string][]uint32{}}
	var errs []error
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		if err := softirqLine(line, &out); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if in.cut() {
		errs = append(errs, errCut)
	}
	return out, errs
}

func softirqLine(line []byte, out *Softirqs) error {
	label, rest := token(line)
	if len(label) == 0 {
		return nil
	}
	name, ok := bytes.CutSuffix(label, []byte{':'})
	if !ok {
		return fmt.Errorf("%q is not a vector name", clip(label))
	}
	row, text, err := counts(rest, len(out.CPUs), make([]uint32, 0, min(len(out.CPUs), len(rest)/2+1)))
	if err != nil {
		return fmt.Errorf("%s: %w", clip(name), err)
	}
	if len(row) != len(out.CPUs) || len(bytes.TrimSpace(text)) > 0 {
		return fmt.Errorf("%s: not one count for each of the %d CPUs of the header", clip(name), len(out.CPUs))
	}
	if _, twice := out.Counts[string(name)]; twice {
		return fmt.Errorf("%s comes twice", clip(name))
	}
	out.Counts[string(name)] = row
	return nil
}

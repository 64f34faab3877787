package detect

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/napitune/napitune/detect/cpuset"
)

// Columns of /proc/net/softnet_stat (net/core/net-procfs.c,
// softnet_seq_show): nine up to 2.6.35, ten with received_rps, eleven with
// flow_limit_count (3.11), thirteen with backlog length and CPU number (5.10),
// fifteen with the two parts of the backlog (6.4). All are hexadecimal.
const (
	softnetMinColumns = 9
	softnetRPS        = 9
	softnetFlowLimit  = 10
	softnetBacklog    = 11
	softnetCPU        = 12
)

// parseSoftnet reads /proc/net/softnet_stat. Rows are online CPUs: they are
// identified by their own CPU column, else by the list of online CPUs if it
// has exactly as many members, else not at all.
func parseSoftnet(data []byte, online cpuset.Set) (Softnet, []error) {
	var out Softnet
	var errs []error
	in := lines{rest: data}
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		if err := softnetLine(line, &out); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if len(bytes.TrimSpace(in.rest)) > 0 {
		// Every value is eight digits, so a last line of full width is whole
		// even if a copy lost its line feed.
		if !wholeSoftnetLine(in.rest, out.Columns) {
			errs = append(errs, errCut)
		} else if err := softnetLine(in.rest, &out); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number+1, err))
		}
	}
	if len(out.Rows) == 0 {
		return Softnet{}, append(errs, errors.New("no row"))
	}
	if len(errs) > 0 && out.Columns <= softnetCPU {
		// A row is missing: positions say nothing any more.
		numberRows(&out)
		return out, errs
	}
	if err := identify(&out, online); err != nil {
		errs = append(errs, err)
	}
	return out, errs
}

func wholeSoftnetLine(line []byte, columns int) bool {
	fields := bytes.Fields(line)
	return columns > 0 && len(fields) == columns && len(fields[columns-1]) == 8
}

func softnetLine(line []byte, out *Softnet) error {
	var values [16]uint32
	n := 0
	for {
		var word []byte
		word, line = token(line)
		if len(word) == 0 {
			break
		}
		v, err := strconv.ParseUint(string(word), 16, 32)
		if err != nil || len(word) != 8 {
			return fmt.Errorf("column %d: %q is not an eight-digit hex number", n, clip(word))
		}
		if n < len(values) {
			values[n] = uint32(v)
		}
		n++
	}
	switch {
	case n == 0:
		return nil
	case n < softnetMinColumns:
		return fmt.Errorf("%d columns, want at least %d", n, softnetMinColumns)
	case out.Columns != 0 && n != out.Columns:
		return fmt.Errorf("%d columns, the rows above have %d", n, out.Columns)
	}
	out.Columns = n
	row := SoftnetRow{CPU: -1, Processed: values[0], Dropped: values[1], Squeezed: values[2]}
	if n > softnetRPS {
		row.ReceivedRPS = values[softnetRPS]
	}
	if n > softnetFlowLimit {
		row.FlowLimit = values[softnetFlowLimit]
	}
	if n > softnetCPU {
		row.Backlog = values[softnetBacklog]
		row.CPU = int(values[softnetCPU])
	}
	out.Rows = append(out.Rows, row)
	return nil
}

func numberRows(out *Softnet) {
	for i := range out.Rows {
		out.Rows[i].CPU = i
	}
	out.Identified = false
}

func identify(out *Softnet, online cpuset.Set) error {
	if out.Columns > softnetCPU {
		last := -1
		for _, r := range out.Rows {
			if r.CPU <= last || r.CPU > maxCPU {
				numberRows(out)
				return fmt.Errorf("CPU %d follows CPU %d", r.CPU, last)
			}
			last = r.CPU
		}
		out.Identified = true
		return nil
	}
	if online.Len() != len(out.Rows) {
		numberRows(out)
		if online.IsEmpty() {
			return errors.New("rows carry no CPU number and the online CPUs are not known")
		}
		return fmt.Errorf("%d rows without CPU numbers for %d online CPUs", len(out.Rows), online.Len())
	}
	i := 0
	for cpu := range online.All() {
		out.Rows[i].CPU = cpu
		i++
	}
	out.Identified = true
	return nil
}

package detect

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Conntrack is the table of tracked connections of this network namespace.
type Conntrack struct {
	// Known says that Count and Max were read: connection tracking is loaded.
	Known bool
	// Count is how many connections there are, Max how many there may be, 0
	// for no limit (net.netfilter.nf_conntrack_count and nf_conntrack_max).
	Count, Max uint64
	// Counters maps the columns "drop", "early_drop" and "insert_failed" of
	// /proc/net/stat/nf_conntrack to counts since boot per possible CPU, which
	// wrap at 2^32; nil where the kernel does not show them.
	Counters map[string][]uint32
}

const (
	conntrackCount = "proc/sys/net/netfilter/nf_conntrack_count"
	conntrackMax   = "proc/sys/net/netfilter/nf_conntrack_max"
	conntrackStat  = "proc/net/stat/nf_conntrack"
)

// conntrack is no gap where it is not loaded.
func (c *collector) conntrack() {
	count, known := c.unsigned(conntrackCount)
	limit, limited := c.unsigned(conntrackMax)
	if !known || !limited {
		return
	}
	c.s.Conntrack = Conntrack{Known: true, Count: count, Max: limit}
	if data, ok := c.text(conntrackStat); ok {
		counters, errs := parseConntrackStat(data)
		c.gaps(conntrackStat, errs)
		c.s.Conntrack.Counters = counters
	}
}

// unsigned reads a small file with one number that is not negative.
func (c *collector) unsigned(name string) (uint64, bool) {
	text, ok := c.text(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		c.gap(name, fmt.Errorf("%q is not a number", clip(text)))
		return 0, false
	}
	return n, true
}

// parseConntrackStat reads /proc/net/stat/nf_conntrack
// (net/netfilter/nf_conntrack_standalone.c, ct_cpu_seq_show): names, then a row
// of hexadecimal numbers for each possible CPU. Which columns there are differs
// between kernels.
func parseConntrackStat(text string) (map[string][]uint32, []error) {
	head, rest, _ := strings.Cut(text, "\n")
	names := strings.Fields(head)
	at := map[string]int{}
	for i, name := range names {
		switch name {
		case "drop", "early_drop", "insert_failed":
			at[name] = i
		}
	}
	if len(at) == 0 {
		return nil, []error{errors.New("no column of losses")}
	}
	out := map[string][]uint32{}
	var errs []error
	for i, line := range strings.Split(strings.TrimRight(rest, "\n"), "\n") {
		row, err := conntrackRow(line, len(names))
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+2, err))
			continue
		}
		for name, column := range at {
			out[name] = append(out[name], row[column])
		}
	}
	if len(errs) > 0 {
		// A row is missing: rows of two samples would not belong together.
		return nil, errs
	}
	return out, nil
}

func conntrackRow(line string, columns int) ([]uint32, error) {
	words := strings.Fields(line)
	if len(words) != columns {
		return nil, fmt.Errorf("%d columns, want %d", len(words), columns)
	}
	row := make([]uint32, columns)
	for i, word := range words {
		// Eight digits always; fewer are the beginning of a number.
		n, err := strconv.ParseUint(word, 16, 32)
		if err != nil || len(word) != 8 {
			return nil, fmt.Errorf("%q is not a hexadecimal number of 8 digits", clip(word))
		}
		row[i] = uint32(n)
	}
	return row, nil
}

// conntrack subtracts the counters of connection tracking, by CPU since each
// wraps for itself.
func (b *between) conntrack() {
	first, last := &b.first().Conntrack, &b.last().Conntrack
	for name, now := range last.Counters {
		before := first.Counters[name]
		if !b.zero && len(before) != len(now) {
			continue
		}
		var sum uint64
		for cpu, n := range now {
			if !b.zero {
				n -= before[cpu]
			}
			sum += uint64(n)
		}
		if b.o.Conntrack == nil {
			b.o.Conntrack = map[string]uint64{}
		}
		b.o.Conntrack[name] = sum
	}
}

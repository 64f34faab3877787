package detect

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// parseNetDev reads /proc/net/dev (net/core/net-procfs.c, dev_seq_printf_stats).
// Only interfaces of the file are in the result.
func parseNetDev(data []byte) (map[string]InterfaceCounters, []error) {
	out := map[string]InterfaceCounters{}
	var errs []error
	in := lines{rest: data}
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		if bytes.IndexByte(line, '|') >= 0 {
			continue // the two header lines
		}
		if err := netDevLine(line, out); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if in.cut() {
		errs = append(errs, errCut)
	}
	return out, errs
}

// netDevColumns: eight of receive, then eight of transmit.
const netDevColumns = 16

func netDevLine(line []byte, out map[string]InterfaceCounters) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	// The counts may touch the colon; aliases ("eth0:1") of old kernels have
	// one in the name.
	colon := bytes.LastIndexByte(line, ':')
	if colon < 0 {
		return fmt.Errorf("%q has no interface name", clip(line))
	}
	name := string(bytes.TrimSpace(line[:colon]))
	v, err := wide(line[colon+1:])
	if err != nil {
		return fmt.Errorf("%s: %w", clip(name), err)
	}
	if name == "" || len(v) != netDevColumns {
		return fmt.Errorf("%q: %d columns, want %d", clip(name), len(v), netDevColumns)
	}
	// rx: bytes packets errs drop fifo frame compressed multicast. "drop"
	// holds rx_dropped + rx_missed_errors.
	out[name] = InterfaceCounters{
		Known:   true,
		RxBytes: v[0], RxPackets: v[1], RxErrors: v[2], RxDropped: v[3], RxFIFO: v[4],
		TxBytes: v[8], TxPackets: v[9], TxErrors: v[10], TxDropped: v[11],
	}
	return nil
}

// parseProtocolPairs reads /proc/net/snmp and /proc/net/netstat
// (net/ipv4/proc.c): pairs of lines with the same label, names first, values
// second. Negative values (Tcp.MaxConn) are gauges and left out.
func parseProtocolPairs(data []byte, out Protocols) []error {
	var errs []error
	in := lines{rest: data}
	for {
		names, ok := in.next()
		if !ok {
			break
		}
		if len(bytes.TrimSpace(names)) == 0 {
			continue
		}
		values, ok := in.next()
		if !ok {
			errs = append(errs, fmt.Errorf("line %d: names without values", in.number))
			return errs
		}
		if err := protocolPair(string(names), string(values), out); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if in.cut() {
		errs = append(errs, errCut)
	}
	return errs
}

func protocolPair(names, values string, out Protocols) error {
	label, nameText, ok := strings.Cut(names, ":")
	label2, valueText, ok2 := strings.Cut(values, ":")
	if !ok || !ok2 || label != label2 {
		return fmt.Errorf("%q is not followed by its values", clip(names))
	}
	n, v := strings.Fields(nameText), strings.Fields(valueText)
	if len(n) != len(v) {
		return fmt.Errorf("%s: %d names, %d values", clip(label), len(n), len(v))
	}
	for i := range n {
		if value, err := strconv.ParseUint(v[i], 10, 64); err == nil {
			out[label+"."+n[i]] = value
		} else if !strings.HasPrefix(v[i], "-") {
			return fmt.Errorf("%s.%s: %q is not a number", clip(label), clip(n[i]), clip(v[i]))
		}
	}
	return nil
}

// parseSNMP6 reads /proc/net/snmp6 (net/ipv6/proc.c): one "Udp6InErrors 0" per
// line. The label is cut off so that the key is "Udp6.InErrors" like the others.
func parseSNMP6(data []byte, out Protocols) []error {
	var errs []error
	in := lines{rest: data}
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		name, rest := token(line)
		if len(name) == 0 {
			continue
		}
		word, _ := token(rest)
		value, err := strconv.ParseUint(string(word), 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %s: %q is not a number", in.number, clip(name), clip(word)))
			continue
		}
		label, key, ok := bytes.Cut(name, []byte{'6'})
		if !ok {
			continue
		}
		out[string(label)+"6."+string(key)] = value
	}
	if in.cut() {
		errs = append(errs, errCut)
	}
	return errs
}

// parseCmdline splits the kernel command line (lib/cmdline.c, next_arg): white
// space separates, double quotes protect it and are removed. A later
// occurrence of a name wins; names without a value map to "". What follows "--"
// belongs to init.
func parseCmdline(text string) map[string]string {
	out := map[string]string{}
	var word strings.Builder
	quoted, started := false, false
	flush := func() bool {
		if !started {
			return true
		}
		started = false
		name, value, _ := strings.Cut(word.String(), "=")
		word.Reset()
		if name == "--" {
			return false
		}
		if name != "" {
			out[name] = value
		}
		return true
	}
	for _, c := range strings.Trim(text, "\n\x00") {
		switch {
		case c == '"':
			quoted, started = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if !flush() {
				return out
			}
		default:
			word.WriteRune(c)
			started = true
		}
	}
	flush()
	return out
}

// isolcpus divides the value of isolcpus= into flags and the CPU list
// (kernel/sched/isolation.c, housekeeping_isolcpus_setup). Without flags the
// domain flag holds.
func isolcpus(value string) (domain, nohz bool, cpus string) {
	rest := value
	flags := 0
	for {
		word, tail, more := strings.Cut(rest, ",")
		switch word {
		case "domain":
			domain = true
		case "nohz":
			nohz = true
		case "managed_irq":
		default:
			return domain || flags == 0, nohz, rest
		}
		flags++
		if !more {
			return domain, nohz, ""
		}
		rest = tail
	}
}

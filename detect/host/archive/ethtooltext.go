package archive

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
)

// The parsers of this file read what the ethtool command prints, as found in
// sosreports. They accept every version since 2.6, whose output differs in
// missing colons, "n/a" for what the driver does not tell, and error texts on
// either side of a headline.

// textError says why a text held no answer.
func textError(text string) error {
	first := strings.TrimSpace(text)
	if first == "" {
		return fmt.Errorf("empty output: %w", host.ErrNotCaptured)
	}
	first, _, _ = strings.Cut(strings.Replace(first, "\n:", ":", 1), "\n")
	reason := host.ErrInconclusive
	for _, known := range errorTexts {
		if strings.Contains(strings.ToLower(text), known.text) {
			reason = known.err
			break
		}
	}
	return fmt.Errorf("%s: %w", shorten(first), reason)
}

// errorTexts are those of strerror(3) and of ethtool itself, in lower case.
var errorTexts = [...]struct {
	text string
	err  error
}{
	{"operation not supported", host.ErrUnsupported},
	{"not supported", host.ErrUnsupported},
	{"no stats available", host.ErrUnsupported},
	{"no such device", fs.ErrNotExist},
	{"operation not permitted", fs.ErrPermission},
	{"permission denied", fs.ErrPermission},
	{"command not found", host.ErrNotCaptured},
	{"no such file or directory", host.ErrNotCaptured},
}

// lines calls use for every line, trimmed, that is not a comment.
func lines(text string, use func(line string)) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' {
			use(line)
		}
	}
}

// parseDriverInfo reads the output of ethtool -i. Some reports lack the colons.
func parseDriverInfo(text string) (host.DriverInfo, error) {
	var info host.DriverInfo
	lines(text, func(line string) {
		for key, field := range map[string]*string{
			"driver": &info.Driver, "version": &info.Version, "firmware-version": &info.Firmware, "bus-info": &info.Bus,
		} {
			rest, ok := strings.CutPrefix(line, key)
			if !ok || rest == "" || !strings.ContainsRune(": \t", rune(rest[0])) {
				continue
			}
			value := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ":"))
			if !strings.EqualFold(value, "n/a") {
				*field = value
			}
		}
	})
	if info.Driver == "" {
		return host.DriverInfo{}, textError(text)
	}
	return info, nil
}

// sections are the two halves that ethtool -l and -g print, by key in lower case.
type sections struct{ maximum, current map[string]int }

// parseSections reads "key: number" under the two headlines. What is n/a is absent.
func parseSections(text string) (sections, error) {
	s := sections{}
	var into map[string]int
	var bad error
	lines(text, func(line string) {
		key, value, ok := strings.Cut(line, ":")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
		switch {
		case strings.HasPrefix(key, "pre-set maximums"):
			s.maximum = map[string]int{}
			into = s.maximum
		case strings.HasPrefix(key, "current hardware settings"):
			s.current = map[string]int{}
			into = s.current
		case !ok || into == nil || !sectionKeys[key] || strings.EqualFold(value, "n/a"):
		default:
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || n < 0 {
				bad = fmt.Errorf("%s: %q is not a number: %w", key, shorten(value), host.ErrInconclusive)
				return
			}
			into[key] = int(n)
		}
	})
	if bad == nil && (len(s.maximum) == 0 || len(s.current) == 0) {
		bad = textError(text)
	}
	if bad != nil {
		return sections{}, bad
	}
	return s, nil
}

var sectionKeys = map[string]bool{"rx": true, "tx": true, "other": true, "combined": true}

// parseChannels reads the output of ethtool -l.
func parseChannels(text string) (host.Channels, error) {
	s, err := parseSections(text)
	if err != nil {
		return host.Channels{}, err
	}
	c := host.Channels{
		MaxRx: s.maximum["rx"], MaxTx: s.maximum["tx"], MaxOther: s.maximum["other"], MaxCombined: s.maximum["combined"],
		Rx: s.current["rx"], Tx: s.current["tx"], Other: s.current["other"], Combined: s.current["combined"],
	}
	if c == (host.Channels{}) {
		return c, fmt.Errorf("channels are all zero: %w", host.ErrInconclusive)
	}
	return c, nil
}

// parseRings reads the output of ethtool -g. A device that answers zero
// everywhere has no rings to set.
func parseRings(text string) (host.Rings, error) {
	s, err := parseSections(text)
	if err != nil {
		return host.Rings{}, err
	}
	r := host.Rings{MaxRx: s.maximum["rx"], MaxTx: s.maximum["tx"], Rx: s.current["rx"], Tx: s.current["tx"]}
	if r == (host.Rings{}) {
		return r, fmt.Errorf("ring sizes are all zero: %w", host.ErrUnsupported)
	}
	return r, nil
}

// oldCoalesce are names that older versions print, and those they set.
var oldCoalesce = map[string]string{
	"rx-frame-low": "rx-frames-low", "tx-frame-low": "tx-frames-low",
	"rx-frame-high": "rx-frames-high", "tx-frame-high": "tx-frames-high",
}

// parseCoalesce reads the output of ethtool -c.
func parseCoalesce(text string) (host.Coalesce, error) {
	c := host.Coalesce{Values: map[string]int{}}
	lines(text, func(line string) {
		key, value, _ := strings.Cut(line, ":")
		if key == "Adaptive RX" {
			rx, tx, _ := strings.Cut(value, "TX:")
			c.AdaptiveRx, c.AdaptiveTx = onOff(rx), onOff(tx)
			return
		}
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32)
		if err != nil || n < 0 || strings.ContainsAny(key, " \t") {
			return
		}
		if name, old := oldCoalesce[key]; old {
			key = name
		}
		c.Values[key] = int(n)
	})
	if len(c.Values) == 0 && c.AdaptiveRx == nil && c.AdaptiveTx == nil {
		return host.Coalesce{}, textError(text)
	}
	return c, nil
}

func onOff(text string) *bool {
	var on bool
	switch strings.TrimSpace(text) {
	case "on":
		on = true
	case "off":
	default:
		return nil
	}
	return &on
}

// featureNames maps what ethtool -k prints to the names of the kernel
// (netdev_features_strings in net/ethtool/common.c; off_flag_def in ethtool.c).
var featureNames = map[string]string{
	"rx-checksumming": "rx-checksum", "generic-segmentation-offload": "tx-generic-segmentation",
	"generic-receive-offload": "rx-gro", "large-receive-offload": "rx-lro",
	"rx-vlan-offload": "rx-vlan-hw-parse", "tx-vlan-offload": "tx-vlan-hw-insert",
	"ntuple-filters": "rx-ntuple-filter", "receive-hashing": "rx-hashing",
}

// featureGroups are headlines over several features. Versions before 3.4
// print nothing below them: then the line stands for the feature on the right.
var featureGroups = map[string]string{
	"tx-checksumming": "", "scatter-gather": "tx-scatter-gather",
	"tcp-segmentation-offload": "tx-tcp-segmentation", "udp-fragmentation-offload": "tx-udp-fragmentation",
}

// parseFeatures reads the output of ethtool -k into kernel names. Requested
// equals On unless the text says "[requested …]".
func parseFeatures(text string) (host.Features, error) {
	features, groups := host.Features{}, host.Features{}
	lines(text, func(line string) {
		name, value, ok := strings.Cut(line, ":")
		word, marks, _ := strings.Cut(strings.TrimSpace(value), " ")
		on := onOff(word)
		if !ok || on == nil || strings.ContainsAny(name, " \t") {
			return
		}
		f := host.Feature{On: *on, Requested: *on, Fixed: strings.Contains(marks, "[fixed]")}
		if strings.Contains(marks, "[requested on]") || strings.Contains(marks, "[requested off]") {
			f.Requested = strings.Contains(marks, "[requested on]")
		}
		if single, group := featureGroups[name]; group {
			groups[single] = f
			return
		}
		if kernel, legacy := featureNames[name]; legacy {
			name = kernel
		}
		features[name] = f
	})
	delete(groups, "")
	for name, f := range groups {
		if _, told := features[name]; !told {
			features[name] = f
		}
	}
	if len(features) == 0 {
		return nil, textError(text)
	}
	return features, nil
}

// maxTable bounds an indirection table: the largest known has 4096 slots
// (drivers/net/ethernet/mellanox/mlx5).
const maxTable = 1 << 16

// parseRSS reads the output of ethtool -x.
func parseRSS(text string) (host.RSS, error) {
	var rss host.RSS
	part := ""
	var bad error
	lines(text, func(line string) {
		switch {
		case strings.HasPrefix(line, "RX flow hash indirection table"):
			part = "table"
			if _, rings, ok := strings.Cut(line, " with "); ok {
				rings, _, _ = strings.Cut(rings, " ")
				rss.RxRings, _ = strconv.Atoi(rings)
			}
		case strings.HasPrefix(line, "RSS hash key"):
			part = "key"
		case strings.HasPrefix(line, "RSS hash function"):
			part = "function"
		case part == "table":
			bad = addSlots(&rss, line, bad)
		case part == "key":
			if key, err := hex.DecodeString(strings.ReplaceAll(line, ":", "")); err == nil {
				rss.Key = key
			}
		case part == "function":
			if name, state, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(state) == "on" {
				rss.Function = name
			}
		}
	})
	if bad == nil && len(rss.Table) == 0 {
		bad = textError(text)
	}
	if bad != nil {
		return host.RSS{}, bad
	}
	return rss, nil
}

// addSlots reads one row "  8:  0 1 2 3" of the table.
func addSlots(rss *host.RSS, line string, bad error) error {
	start, row, ok := strings.Cut(line, ":")
	first, err := strconv.Atoi(start)
	if bad != nil || !ok || err != nil {
		return bad // "Operation not supported" is left to textError
	}
	if first != len(rss.Table) {
		return fmt.Errorf("indirection table continues at slot %d after %d slots: %w", first, len(rss.Table), host.ErrInconclusive)
	}
	for field := range strings.FieldsSeq(row) {
		queue, err := strconv.ParseUint(field, 10, 32)
		if err != nil || len(rss.Table) >= maxTable {
			return fmt.Errorf("indirection table slot %d: %q: %w", len(rss.Table), shorten(field), host.ErrInconclusive)
		}
		rss.Table = append(rss.Table, uint32(queue))
	}
	return nil
}

// hashFields are the lines of ethtool -n DEV rx-flow-hash FLOW and the letters
// of -N, in the order in which this package writes them.
var hashFields = [...]struct {
	text   string
	letter byte
}{
	{"L2DA", 'm'}, {"VLAN tag", 'v'}, {"L3 proto", 't'}, {"IP SA", 's'}, {"IP DA", 'd'},
	{"L4 bytes 0 & 1", 'f'}, {"L4 bytes 2 & 3", 'n'},
}

// parseHashFields reads the output of ethtool -n DEV rx-flow-hash FLOW.
func parseHashFields(text string) (string, error) {
	seen := map[byte]bool{}
	headline := false
	lines(text, func(line string) {
		headline = headline || strings.Contains(line, "fields for computing Hash flow key")
		for _, f := range hashFields {
			if strings.HasPrefix(line, f.text) {
				seen[f.letter] = true
			}
		}
	})
	if !headline || len(seen) == 0 {
		return "", textError(text)
	}
	var letters []byte
	for _, f := range hashFields {
		if seen[f.letter] {
			letters = append(letters, f.letter)
		}
	}
	return string(letters), nil
}

// parseStats reads the output of ethtool -S in its order. Names are as the
// driver gives them ("rx-0.packets", "[3]: rx_bytes"), except those of
// vmxnet3: see QualifyStats. Lines without a number are not counters and are
// left out.
func parseStats(text string) (host.Stats, error) {
	var stats host.Stats
	for line := range strings.Lines(text) {
		at := strings.LastIndexByte(line, ':')
		if at < 0 {
			continue
		}
		value, err := strconv.ParseUint(strings.TrimSpace(line[at+1:]), 10, 64)
		if err != nil || strings.TrimSpace(line[:at]) == "" {
			continue
		}
		stats = append(stats, host.Stat{Name: strings.TrimRight(line[:at], " \t"), Value: value})
	}
	if stats = QualifyStats(stats); len(stats) == 0 {
		return nil, textError(text)
	}
	return stats, nil
}

// QualifyStats makes names unique where the driver tells by indentation what a
// counter belongs to, and drops leading white space everywhere. It takes the
// names with their indentation, as ethtool prints them and as the driver
// gives them (drivers/net/vmxnet3/vmxnet3_ethtool.c):
//
//	Rx Queue#: 1              (dropped; names the block)
//	  pkts rx OOB: 0          rxq1: pkts rx OOB
//	  drv dropped rx total: 0 rxq1: drv dropped rx total
//	     fcs: 0               rxq1: drv dropped rx total: fcs
func QualifyStats(stats host.Stats) host.Stats {
	qualified := make(host.Stats, 0, len(stats))
	block, parent := "", ""
	blockIndent, itemIndent := 0, -1
	for _, s := range stats {
		name := strings.TrimLeft(s.Name, " \t")
		indent := len(s.Name) - len(name)
		if name == "Rx Queue#" || name == "Tx Queue#" {
			block = strings.ToLower(name[:2]) + "q" + strconv.FormatUint(s.Value, 10) + ": "
			blockIndent, itemIndent = indent, -1
			continue
		}
		if block != "" && indent <= blockIndent {
			block = ""
		}
		if block != "" && itemIndent < 0 {
			itemIndent = indent
		}
		switch {
		case block == "":
		case indent > itemIndent:
			name = parent + ": " + name
		default:
			parent = block + name
			name = parent
		}
		qualified = append(qualified, host.Stat{Name: name, Value: s.Value})
	}
	return qualified
}

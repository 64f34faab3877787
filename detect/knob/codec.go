package knob

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
)

// The codecs of the table. The canonical forms:
//
//	integer  decimal, without sign unless negative: "300"
//	switch   "on" or "off"
//	cpus     list form: "0-3,8"; "" is the empty set
//	queues   likewise
//	table    see FormatTable: "0-3*32"
//	fields   letters of ethtool in the order mvtsdfnr: "sdfn"; "" is none
var (
	integerCodec = Codec{Name: "integer", Canonical: canonicalInteger}
	switchCodec  = Codec{Name: "switch", Canonical: canonicalSwitch}
	cpusCodec    = Codec{Name: "cpus", Canonical: canonicalCPUs}
	queuesCodec  = Codec{Name: "queues", Canonical: canonicalQueues}
	tableCodec   = Codec{Name: "table", Canonical: canonicalTable}
	fieldsCodec  = Codec{Name: "fields", Canonical: canonicalFields}
)

func canonicalInteger(text string) (string, error) {
	trimmed := strings.TrimSpace(text)
	n, err := strconv.ParseInt(trimmed, 10, 64)
	if err != nil {
		return "", fmt.Errorf("%q is not a whole number", clip(trimmed))
	}
	return strconv.FormatInt(n, 10), nil
}

func canonicalSwitch(text string) (string, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "on", "1", "true", "yes":
		return "on", nil
	case "off", "0", "false", "no":
		return "off", nil
	}
	return "", fmt.Errorf("%q is neither on nor off", clip(text))
}

// canonicalCPUs accepts the list form, and the hex form only with 0x before
// it, since "10" alone would mean CPU 10 or CPU 4.
func canonicalCPUs(text string) (string, error) {
	trimmed := strings.TrimSpace(text)
	parse := cpuset.ParseList
	if strings.HasPrefix(trimmed, "0x") {
		parse = cpuset.ParseMask
	}
	set, err := parse(trimmed)
	if err != nil {
		return "", err
	}
	return set.String(), nil
}

// canonicalQueues accepts what canonicalCPUs does: the kernel has one form for both.
func canonicalQueues(text string) (string, error) {
	set, err := canonicalCPUs(text)
	if err != nil {
		return "", fmt.Errorf("set of queues: %w", err)
	}
	return set, nil
}

// hashLetters are the field letters of ethtool -N rx-flow-hash in the order of
// its manual: MAC destination, VLAN, layer 3 protocol, source, destination,
// port halves, discard.
const hashLetters = "mvtsdfnr"

func canonicalFields(text string) (string, error) {
	var seen [len(hashLetters)]bool
	for _, c := range strings.TrimSpace(text) {
		at := strings.IndexRune(hashLetters, c)
		if at < 0 {
			return "", fmt.Errorf("%q: %q is not a hash field (one of %s)", clip(text), c, hashLetters)
		}
		seen[at] = true
	}
	var out strings.Builder
	for i, is := range seen {
		if is {
			out.WriteByte(hashLetters[i])
		}
	}
	return out.String(), nil
}

// maxSlots bounds an RSS table read from text. The largest tables of drivers
// have 2048 entries (ice, ICE_LUT_PF_SIZE); the rest is room.
const maxSlots = 1 << 16

// FormatTable is the canonical text of an RSS indirection table: groups
// separated by spaces, each "QUEUE", "FIRST-LAST" (a rising run) or one of these
// followed by "*TIMES". The even table of 128 entries over four queues is
// "0-3*32", blocks of 32 are "0*32 1*32 2*32 3*32". The form is reversible
// for every table; an empty table is "".
func FormatTable(slots []uint32) string {
	var groups []string
	for i := 0; i < len(slots); {
		run := risingRun(slots[i:])
		times := 1
		for end := i + run*(times+1); end <= len(slots) && slices.Equal(slots[i:i+run], slots[end-run:end]); end += run {
			times++
		}
		group := strconv.FormatUint(uint64(slots[i]), 10)
		if run > 1 {
			group += "-" + strconv.FormatUint(uint64(slots[i+run-1]), 10)
		}
		if times > 1 {
			group += "*" + strconv.Itoa(times)
		}
		groups = append(groups, group)
		i += run * times
	}
	return strings.Join(groups, " ")
}

func risingRun(slots []uint32) int {
	n := 1
	for n < len(slots) && slots[n] == slots[n-1]+1 && slots[n] != 0 {
		n++
	}
	return n
}

// ParseTable reads what FormatTable writes, and plain lists of queues. An
// empty table and one of more than 65536 entries are errors.
func ParseTable(text string) ([]uint32, error) {
	var slots []uint32
	for group := range strings.FieldsSeq(text) {
		run, err := parseGroup(group, maxSlots-len(slots))
		if err != nil {
			return nil, fmt.Errorf("RSS table %q: %w", clip(text), err)
		}
		slots = append(slots, run...)
	}
	if len(slots) == 0 {
		return nil, fmt.Errorf("RSS table %q has no entries", clip(text))
	}
	return slots, nil
}

func parseGroup(group string, room int) ([]uint32, error) {
	body, timesText, repeated := strings.Cut(group, "*")
	firstText, lastText, ranged := strings.Cut(body, "-")
	first, err := strconv.ParseUint(firstText, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%q is not QUEUE, FIRST-LAST or one of these with *TIMES", clip(group))
	}
	last, times := first, uint64(1)
	if ranged {
		if last, err = strconv.ParseUint(lastText, 10, 32); err != nil || last < first {
			return nil, fmt.Errorf("%q is not a rising run of queues", clip(group))
		}
	}
	if repeated {
		if times, err = strconv.ParseUint(timesText, 10, 32); err != nil || times == 0 {
			return nil, fmt.Errorf("%q is repeated an impossible number of times", clip(group))
		}
	}
	// last-first+1 and times are both below 2^33: the product fits.
	if (last-first+1)*times > uint64(room) {
		return nil, fmt.Errorf("%q makes the table longer than %d entries", clip(group), maxSlots)
	}
	slots := make([]uint32, 0, (last-first+1)*times)
	for range times {
		for q := first; q <= last; q++ {
			slots = append(slots, uint32(q))
		}
	}
	return slots, nil
}

// EvenTable is the canonical text of the table that spreads over the first
// queues in turn, as drivers set it by default (include/linux/ethtool.h,
// ethtool_rxfh_indir_default) and "ethtool -X DEV equal N" does.
func EvenTable(slots, queues int) string {
	if queues < 1 {
		return ""
	}
	table := make([]uint32, slots)
	for i := range table {
		table[i] = uint32(i % queues)
	}
	return FormatTable(table)
}

func canonicalTable(text string) (string, error) {
	slots, err := ParseTable(text)
	if err != nil {
		return "", err
	}
	return FormatTable(slots), nil
}

// Check says whether this host would take a value as it is; the error says
// which bound it breaks. Bounds come from the State of the setting.
func (k *Kind) Check(b Bounds, value string) error {
	canonical, err := k.Codec.Canonical(value)
	if err != nil {
		return err
	}
	switch k.Codec.Name {
	case integerCodec.Name:
		return b.checkInteger(canonical)
	case cpusCodec.Name:
		return b.checkCPUs(canonical)
	case queuesCodec.Name:
		return b.checkQueues(canonical)
	case tableCodec.Name:
		return b.checkTable(canonical)
	}
	if len(b.Of) > 0 && !slices.Contains(b.Of, canonical) {
		return fmt.Errorf("%q is none of %s", canonical, strings.Join(b.Of, ", "))
	}
	return nil
}

func (b Bounds) checkInteger(canonical string) error {
	n, err := strconv.ParseInt(canonical, 10, 64)
	if err != nil {
		return err
	}
	if (b.Min != 0 || b.Max != 0) && (n < b.Min || n > b.Max) {
		return fmt.Errorf("%d is outside %d to %d", n, b.Min, b.Max)
	}
	if b.PowerOfTwo && n != 0 && (n < 0 || bits.OnesCount64(uint64(n)) != 1) {
		return fmt.Errorf("%d is not a power of two", n)
	}
	return nil
}

func (b Bounds) checkCPUs(canonical string) error {
	if b.CPUs == "" {
		return nil
	}
	want, err := cpuset.ParseList(canonical)
	if err != nil {
		return err
	}
	may, err := cpuset.ParseList(b.CPUs)
	if err != nil {
		return fmt.Errorf("allowed CPUs: %w", err)
	}
	if outside := want.Minus(may); !outside.IsEmpty() {
		return fmt.Errorf("CPUs %s are not among the allowed %s", outside, may)
	}
	if b.Min > 0 && int64(want.Len()) < b.Min {
		return fmt.Errorf("%q names %d CPUs, at least %d must be named", canonical, want.Len(), b.Min)
	}
	return nil
}

func (b Bounds) checkQueues(canonical string) error {
	want, err := cpuset.ParseList(canonical)
	if err != nil {
		return err
	}
	if top := int64(want.Max()); top > b.Max {
		return fmt.Errorf("queue %d is named, the device has queues 0 to %d", top, b.Max)
	}
	return nil
}

func (b Bounds) checkTable(canonical string) error {
	slots, err := ParseTable(canonical)
	if err != nil {
		return err
	}
	if b.Slots > 0 && len(slots) != b.Slots {
		return fmt.Errorf("the table has %d entries, the device's has %d", len(slots), b.Slots)
	}
	if top := slices.Max(slots); b.Slots > 0 && int64(top) > b.Max {
		return fmt.Errorf("the table names queue %d, the device has queues 0 to %d", top, b.Max)
	}
	return nil
}

// clip keeps quoted input in error texts readable.
func clip(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// Package cpuset holds sets of CPU numbers in the two textual forms the kernel
// reads and writes: the list form ("0-3,8", *_list files, cpulist) and the hex
// mask form ("00000000,0000010f", rps_cpus, xps_cpus, smp_affinity).
//
// A Set is immutable and comparable: two sets with the same members are ==, so
// a Set can be a map key and a canonical knob value.
package cpuset

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// MaxCPU is the highest CPU number accepted from text. The kernel's NR_CPUS is
// at most 8192 in distribution kernels (arch/x86/Kconfig, NR_CPUS_RANGE_END);
// eight times that bounds what a hostile capture can make us allocate.
const MaxCPU = 65535

// Set is a set of CPU numbers. The zero value is the empty set.
type Set struct {
	// bits holds member n at bit n%8 of byte n/8, without trailing zero bytes,
	// so that equal sets have equal strings.
	bits string
}

// Of returns the set of the given CPUs. It panics on a number outside
// 0..MaxCPU: callers pass numbers that were parsed here or are constants.
func Of(cpus ...int) Set {
	var b builder
	for _, c := range cpus {
		b.add(c)
	}
	return b.set()
}

// Range returns the set lo..hi, both included; empty if hi < lo.
func Range(lo, hi int) Set {
	var b builder
	for c := lo; c <= hi; c++ {
		b.add(c)
	}
	return b.set()
}

// Collect returns the set of all CPUs that seq yields.
func Collect(seq iter.Seq[int]) Set {
	var b builder
	for c := range seq {
		b.add(c)
	}
	return b.set()
}

type builder []byte

func (b *builder) add(cpu int) {
	if cpu < 0 || cpu > MaxCPU {
		panic(fmt.Sprintf("cpuset: CPU %d out of range", cpu))
	}
	for len(*b) <= cpu/8 {
		*b = append(*b, 0)
	}
	(*b)[cpu/8] |= 1 << (cpu % 8)
}

func (b builder) set() Set {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return Set{string(b[:n])}
}

// Has reports whether cpu is a member.
func (s Set) Has(cpu int) bool {
	return cpu >= 0 && cpu/8 < len(s.bits) && s.bits[cpu/8]&(1<<(cpu%8)) != 0
}

// Len is the number of members.
func (s Set) Len() int {
	n := 0
	for i := range len(s.bits) {
		n += bits.OnesCount8(s.bits[i])
	}
	return n
}

// IsEmpty reports whether the set has no members.
func (s Set) IsEmpty() bool { return s.bits == "" }

// All yields the members in ascending order.
func (s Set) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range len(s.bits) {
			for w := s.bits[i]; w != 0; w &= w - 1 {
				if !yield(i*8 + bits.TrailingZeros8(w)) {
					return
				}
			}
		}
	}
}

// CPUs returns the members in ascending order.
func (s Set) CPUs() []int {
	out := make([]int, 0, s.Len())
	for c := range s.All() {
		out = append(out, c)
	}
	return out
}

// Min is the smallest member, or -1 for the empty set.
func (s Set) Min() int {
	for c := range s.All() {
		return c
	}
	return -1
}

// Max is the largest member, or -1 for the empty set.
func (s Set) Max() int {
	if s.bits == "" {
		return -1
	}
	last := len(s.bits) - 1
	return last*8 + bits.Len8(s.bits[last]) - 1
}

// Union returns the CPUs in either set.
func (s Set) Union(t Set) Set {
	long, short := s.bits, t.bits
	if len(long) < len(short) {
		long, short = short, long
	}
	b := builder(long)
	for i := range len(short) {
		b[i] |= short[i]
	}
	return b.set()
}

// Intersect returns the CPUs in both sets.
func (s Set) Intersect(t Set) Set {
	b := make(builder, min(len(s.bits), len(t.bits)))
	for i := range b {
		b[i] = s.bits[i] & t.bits[i]
	}
	return b.set()
}

// Minus returns the CPUs of s that are not in t.
func (s Set) Minus(t Set) Set {
	b := builder(s.bits)
	for i := range min(len(s.bits), len(t.bits)) {
		b[i] &^= t.bits[i]
	}
	return b.set()
}

// Contains reports whether every CPU of t is in s.
func (s Set) Contains(t Set) bool { return t.Minus(s).IsEmpty() }

// Overlaps reports whether the sets share a CPU.
func (s Set) Overlaps(t Set) bool { return !s.Intersect(t).IsEmpty() }

// String is the list form, "0-3,8"; the empty set is "".
func (s Set) String() string {
	var sb strings.Builder
	start, prev := -1, -1
	flush := func() {
		if start < 0 {
			return
		}
		if sb.Len() > 0 {
			sb.WriteByte(',')
		}
		sb.WriteString(strconv.Itoa(start))
		if prev > start {
			sb.WriteByte('-')
			sb.WriteString(strconv.Itoa(prev))
		}
	}
	for c := range s.All() {
		if c == prev+1 && start >= 0 {
			prev = c
			continue
		}
		flush()
		start, prev = c, c
	}
	flush()
	return sb.String()
}

// Mask is the shortest hex form that the kernel's bitmap parser accepts on a
// machine that has all the members: no "0x", no leading zeros, a comma before
// every further 32 bits. Wider forms are refused with EOVERFLOW even when the
// extra digits are zero (lib/bitmap-str.c, bitmap_parse). The empty set is "0".
func (s Set) Mask() string {
	words := make([]uint32, (len(s.bits)+3)/4)
	for i := range len(s.bits) {
		words[i/4] |= uint32(s.bits[i]) << (8 * (i % 4))
	}
	if len(words) == 0 {
		return "0"
	}
	var sb strings.Builder
	fmt.Fprintf(&sb, "%x", words[len(words)-1])
	for i := len(words) - 2; i >= 0; i-- {
		fmt.Fprintf(&sb, ",%08x", words[i])
	}
	return sb.String()
}

// ParseList reads the list form: "", "0", "0-3,8", and the grouped form
// "0-31:2/4" (lib/bitmap-str.c, bitmap_parselist). Surrounding white space is
// ignored, and "(null)", which nohz_full prints when it is not configured, is
// the empty set.
func ParseList(text string) (Set, error) {
	trimmed := strings.TrimSpace(text)
	if trimmed == "" || trimmed == "(null)" {
		return Set{}, nil
	}
	var b builder
	for part := range strings.SplitSeq(trimmed, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		if err := addRange(&b, part); err != nil {
			return Set{}, fmt.Errorf("CPU list %q: %w", clip(trimmed), err)
		}
	}
	return b.set(), nil
}

func addRange(b *builder, part string) error {
	rangeText, group, grouped := strings.Cut(part, ":")
	loText, hiText, isRange := strings.Cut(rangeText, "-")
	lo, err := parseCPU(loText)
	if err != nil {
		return err
	}
	hi := lo
	if isRange {
		if hi, err = parseCPU(hiText); err != nil {
			return err
		}
	}
	if hi < lo {
		return fmt.Errorf("range %q runs backwards", clip(part))
	}
	used, size := 1, 1
	if grouped {
		usedText, sizeText, ok := strings.Cut(group, "/")
		if !ok {
			return fmt.Errorf("group %q lacks a slash", clip(part))
		}
		if used, err = parseCPU(usedText); err != nil {
			return err
		}
		if size, err = parseCPU(sizeText); err != nil {
			return err
		}
		if size == 0 || used > size {
			return fmt.Errorf("group %q is impossible", clip(part))
		}
	}
	for c := lo; c <= hi; c++ {
		if (c-lo)%size < used {
			b.add(c)
		}
	}
	return nil
}

func parseCPU(text string) (int, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a CPU number", clip(text))
	}
	if n > MaxCPU {
		return 0, fmt.Errorf("CPU %d is above %d", n, MaxCPU)
	}
	return int(n), nil
}

// ParseMask reads the hex form, with or without commas ("f", "ff,ffffffff") and
// with an optional "0x", which tools print but the kernel does not accept.
func ParseMask(text string) (Set, error) {
	trimmed := strings.TrimSpace(text)
	trimmed = strings.TrimPrefix(trimmed, "0x")
	if trimmed == "" {
		return Set{}, fmt.Errorf("CPU mask %q is empty", clip(text))
	}
	var b builder
	base := 0
	groups := strings.Split(trimmed, ",")
	for i := len(groups) - 1; i >= 0; i-- {
		group := groups[i]
		if len(groups) > 1 && len(group) > 8 {
			return Set{}, fmt.Errorf("CPU mask %q: group %q is wider than 32 bits", clip(trimmed), clip(group))
		}
		for j := len(group) - 1; j >= 0; j-- {
			digit, err := strconv.ParseUint(group[j:j+1], 16, 8)
			if err != nil {
				return Set{}, fmt.Errorf("CPU mask %q: %q is not a hex digit", clip(trimmed), group[j:j+1])
			}
			at := base + 4*(len(group)-1-j)
			for ; digit != 0; digit &= digit - 1 {
				cpu := at + bits.TrailingZeros64(digit)
				if cpu > MaxCPU {
					return Set{}, fmt.Errorf("CPU mask %q: CPU %d is above %d", clip(trimmed), cpu, MaxCPU)
				}
				b.add(cpu)
			}
		}
		if len(groups) > 1 {
			base += 32
		}
	}
	return b.set(), nil
}

// clip keeps quoted input in error texts readable.
func clip(s string) string {
	const limit = 60
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// MarshalText is the list form, for JSON and YAML.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the list form.
func (s *Set) UnmarshalText(text []byte) error {
	parsed, err := ParseList(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

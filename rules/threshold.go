package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Threshold is a named number that a rule judges by. Policies override it by name.
type Threshold struct {
	Name   string
	Value  float64
	Unit   string
	Source string // where the number comes from
	Change string // what would change it
}

var thresholds []*Threshold

func threshold(name string, value float64, unit, source, change string) *Threshold {
	t := &Threshold{name, value, unit, source, change}
	thresholds = append(thresholds, t)
	return t
}

// Thresholds returns every threshold, sorted by name.
func Thresholds() []Threshold {
	out := make([]Threshold, 0, len(thresholds))
	for _, t := range thresholds {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b Threshold) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// describe is the line of a threshold on a manual page.
func (t *Threshold) describe() string {
	unit := strings.Replace(t.Unit, "1/s", "a second", 1)
	if unit != "" {
		unit = " " + unit
	}
	return fmt.Sprintf("%s = %s%s — %s; would change: %s", t.Name, strconv.FormatFloat(t.Value, 'g', -1, 64), unit, t.Source, t.Change)
}

func describe(ts ...*Threshold) []string {
	out := make([]string, len(ts))
	for i, t := range ts {
		out[i] = t.describe()
	}
	return out
}

// Activity: below these a placement cannot matter, whatever it looks like.
var (
	activeRate = threshold("active-interrupt-rate", 1000, "1/s",
		"a queue interrupt with its NAPI poll costs some 2–5 µs, so 1,000 a second are at most 0.5 % of a CPU; field reports of needless alarms sit at up to 3,000/s on one queue",
		"a measured cost per interrupt well above 5 µs")
	activeTotal = threshold("active-interrupts-since-boot", 500_000, "interrupts",
		"captured hosts without a clock: idle ones show up to 300,000 on one CPU, the smallest real case 886,000",
		"captures that carry the time since boot, where active-average-rate is used instead")
	activeAverage = threshold("active-average-rate", 100, "1/s",
		"an average since boot hides the busy hours; a tenth of active-interrupt-rate still shows that the host is used",
		"a second sample, where active-interrupt-rate is used instead")
	activeSoftirq = threshold("active-softirq-share", 0.05, "of a CPU",
		"a CPU that spends less than 1/20 of its time in softirqs has nothing to gain from spreading",
		"latency budgets below 100 µs")
	activeQueue = threshold("active-queue-share", 0.01, "of all NIC interrupts",
		"a queue with less than 1 % of the interrupts cannot change any CPU's load noticeably",
		"nothing known")
	hotSoftirq = threshold("hot-softirq-share", 0.5, "of a CPU",
		"above one half, the CPU's other work already waits for softirqs, and Linux hands over to ksoftirqd soon (kernel/softirq.c, MAX_SOFTIRQ_TIME)",
		"isolated network CPUs, which may run at 80 %")
)

// At is the value of a threshold under this policy.
func (c *Case) At(t *Threshold) float64 {
	if v, ok := c.Policy.Thresholds[t.Name]; ok {
		return v
	}
	return t.Value
}

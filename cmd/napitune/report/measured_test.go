package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/apply/measure"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// judged is the judgement of a host without noise, of which change makes the
// sub-windows after.
func judged(change func(s *measure.Sample)) measure.Report {
	phase := func(change func(s *measure.Sample)) []measure.Sample {
		out := make([]measure.Sample, measure.Windows)
		for i := range out {
			out[i] = measure.Sample{
				Seconds: 1, Packets: 200_000, Bytes: 160e6, Elsewhere: 1, UDPShare: 0.2, OtherWork: 0.5,
				CPUs:    map[int]measure.CPU{0: {Busy: 0.9, Softirq: 0.8}, 1: {Busy: 0.1, Softirq: 0.01}},
				Carrier: map[string]bool{"eth0": true},
				Values: map[measure.Key]float64{
					{Metric: "softirq_share"}: 0.81, {Metric: "max_cpu_softirq_share"}: 0.8, {Metric: "device_lost"}: 0.002,
					{Metric: "rx_bytes", Device: "eth0"}: 150e6, {Metric: "interrupts_per_packet"}: 0.25,
				},
			}
			change(&out[i])
		}
		return out
	}
	predicted := 0.4
	r := measure.Judge(phase(func(*measure.Sample) {}), phase(change), measure.Promise{
		Changes: []plan.Change{
			{Ref: knob.Rx("eth0", 1, "irq.affinity"), Expect: plan.Expect{Metric: "max_cpu_softirq_share", Direction: "down", Predicted: &predicted}},
			{Ref: knob.Tx("eth0", 1, "xps.cpus"), Expect: plan.Expect{Metric: "xps_mismatched_queues", Direction: "down"}},
		},
		Placement: []plan.Placement{{Basis: "of a CPU", CPUs: []plan.CPULoad{{CPU: 0, Before: 0.8, Predicted: 0.4}, {CPU: 1, Predicted: 0.41}}}},
	})
	r.Devices, r.Settling = append(r.Devices, "eth0"), measure.Settling{Seconds: 0.5}
	return r
}

func measuredReports() map[string]measure.Report {
	spread := func(s *measure.Sample) {
		s.Values[measure.Key{Metric: "max_cpu_softirq_share"}], s.Values[measure.Key{Metric: "softirq_share"}] = 0.45, 0.88
		s.Values[measure.Key{Metric: "device_lost"}] = 0
		s.CPUs[0], s.CPUs[1] = measure.CPU{Busy: 0.5, Softirq: 0.43}, measure.CPU{Busy: 0.5, Softirq: 0.45}
	}
	worse := judged(func(s *measure.Sample) {
		spread(s)
		s.Values[measure.Key{Metric: "device_lost"}] = 0.31
	})
	worse.Settling = measure.Settling{Seconds: 10, Pending: []string{"eth0/rx-1/irq.affinity: still polled on CPU 0"}}
	return map[string]measure.Report{
		"better":  judged(spread),
		"worse":   worse,
		"same":    judged(func(*measure.Sample) {}),
		"unclear": judged(func(s *measure.Sample) { s.Packets, s.Bytes = s.Packets/3, s.Bytes/3 }),
	}
}

func TestMeasured(t *testing.T) {
	schema := compileSchema(t, "measured")
	for name, r := range measuredReports() {
		t.Run(name, func(t *testing.T) {
			var text, document bytes.Buffer
			if err := Measured(&text, r, Style{}); err != nil {
				t.Fatal(err)
			}
			golden(t, "measured-"+name+".txt", text.String())
			for i, line := range strings.Split(text.String(), "\n") {
				if columns(line) > DefaultWidth {
					t.Errorf("line %d has %d columns: %q", i+1, columns(line), line)
				}
			}
			if err := JSON(&document, r); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(decode(t, document.Bytes())); err != nil {
				t.Errorf("%v in\n%s", err, document.String())
			}
			var whole bytes.Buffer
			if err := (Transaction{Result: apply.Result{ID: "x", State: apply.Confirmed}, Measured: &r}).Text(&whole, Style{}); err != nil || !strings.Contains(whole.String(), text.String()) {
				t.Errorf("the transaction does not show it: %v\n%s", err, &whole)
			}
		})
	}
	var refused bytes.Buffer
	if err := JSON(&refused, measure.Report{Verdict: "fine"}); err != nil {
		t.Fatal(err)
	}
	if schema.Validate(decode(t, refused.Bytes())) == nil {
		t.Error("the schema takes anything")
	}
}

// Names from the host cannot write to the terminal.
func TestMeasuredIsPrintable(t *testing.T) {
	r := measuredReports()["worse"]
	evil := "\x1b[2Jeth\u202e"
	r.Devices, r.Reason, r.Changed = []string{evil}, evil, []string{evil}
	r.Settling.Pending = []string{evil}
	for i := range r.Figures {
		r.Figures[i].Device, r.Figures[i].Title, r.Figures[i].Reason = evil, evil, evil
	}
	r.Unmeasured = append(r.Unmeasured, measure.Unmeasured{Metric: evil, Reason: evil})
	r.Basis = evil
	var text bytes.Buffer
	if err := Measured(&text, r, Style{Verbose: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range text.String() {
		if c != '\n' && unsafeRune(c) {
			t.Fatalf("%s in:\n%q", fmt.Sprintf("%U", c), text.String())
		}
	}
}

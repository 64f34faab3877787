package knob

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/host"
	"github.com/napitune/napitune/detect/host/irqbalance"
)

// irqsCodec is a list of interrupt numbers: "45,46", in ascending order.
var irqsCodec = Codec{Name: "irqs", Canonical: canonicalIRQs}

func canonicalIRQs(text string) (string, error) {
	irqs, err := parseIRQs(text)
	if err != nil {
		return "", err
	}
	return formatIRQs(irqs), nil
}

func parseIRQs(text string) ([]int, error) {
	var out []int
	for word := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' || c == '\n' }) {
		irq, err := strconv.ParseUint(word, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q is not the number of an interrupt", clip(word))
		}
		out = append(out, int(irq))
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func formatIRQs(irqs []int) string {
	words := make([]string, len(irqs))
	for i, irq := range irqs {
		words[i] = strconv.Itoa(irq)
	}
	return strings.Join(words, ",")
}

// owners are the exceptions that other programs can be told to make.
func owners() []*Kind {
	const name = "irqbalance.banned"
	return []*Kind{{
		Name: name, Scope: ScopeHost, Title: "interrupts that irqbalance leaves alone",
		Doc: "The interrupts that a running irqbalance does not move, on top of those that its configuration names. It keeps them in " +
			"memory: a restart forgets them. A change makes it look at all interrupts anew in its next round, so that it may move " +
			"others then. The list holds numbers, which the next boot gives anew: what is to last belongs into its policy script.",
		Source: "irqbalance.c sock_handle; irqbalance(1)",
		Codec:  irqsCodec, Stage: StageOwners, Disruption: DisruptsNothing,
		Asked:   true,
		Default: noDefault,
		Refs: func(v View) []Ref {
			if v.Host == nil || v.Host.Irqbalance == nil {
				return nil
			}
			return []Ref{Global(name)}
		},
		Read: func(v View, _ Ref) State {
			if v.Host == nil || v.Host.Irqbalance == nil {
				return State{Status: Unknown, Reason: notCaptured}
			}
			setup, err := v.Host.Irqbalance()
			if err != nil {
				return failure(err, "irqbalance is not running")
			}
			return State{Status: Known, Value: formatIRQs(setup.Banned)}
		},
		Write: func(_ View, w host.Writer, _ Ref, value string) error {
			irqs, err := parseIRQs(value)
			if err != nil {
				return err
			}
			if w.BanIRQs == nil {
				return host.ErrUnsupported
			}
			return w.BanIRQs(irqs)
		},
		Shell:  func(View, Ref, string) string { return "" },
		Except: exceptIRQs,
	}}
}

// exceptIRQs adds the interrupts of settings to the list.
func exceptIRQs(v View, present string, refs []Ref) (string, error) {
	irqs, err := parseIRQs(present)
	if err != nil {
		return "", err
	}
	for _, ref := range refs {
		irq, err := queueIRQ(v, ref)
		if err != nil {
			return "", err
		}
		irqs = append(irqs, irq)
	}
	value, err := canonicalIRQs(formatIRQs(irqs))
	if err != nil {
		return "", err
	}
	if err := irqbalance.Fits(irqs); err != nil {
		return "", fmt.Errorf("%w: ban the device in a policy script instead (irqbalance(1), --policyscript)", err)
	}
	return value, nil
}

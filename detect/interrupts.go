package detect

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect/topo"
)

// parseInterrupts reads /proc/interrupts (kernel/irq/proc.c, show_interrupts).
// The header names the online CPUs; then, per line, a label, one count per
// CPU and text. A line that does not have exactly one count per CPU is left
// out and reported, because nothing says which CPU is missing; only the lines
// that are known to carry a single total (ERR, MIS) may be shorter. An empty
// file is one that a container runtime has masked.
func parseInterrupts(data []byte) (IRQTable, []error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return IRQTable{Masked: true}, nil
	}
	in := lines{rest: data}
	header, ok := in.next()
	if !ok {
		return IRQTable{}, []error{errCut}
	}
	cpus, err := cpuHeader(header)
	if err != nil {
		return IRQTable{}, []error{err}
	}
	p := interruptsParser{table: IRQTable{CPUs: cpus, Named: map[string][]uint32{}}}
	n := bytes.Count(in.rest, []byte{'\n'})
	// A count takes at least two bytes, which bounds what a short file with a
	// long header can make us allocate.
	p.backing = make([]uint32, 0, min(n*len(cpus), len(data)/2+1))
	p.table.Rows = make([]IRQ, 0, n)
	for {
		line, ok := in.next()
		if !ok {
			break
		}
		if err := p.line(line); err != nil {
			p.errs = append(p.errs, fmt.Errorf("line %d: %w", in.number, err))
		}
	}
	if in.cut() {
		p.errs = append(p.errs, errCut)
	}
	return p.table, p.errs
}

type interruptsParser struct {
	table   IRQTable
	backing []uint32 // holds the counts of all lines
	errs    []error
}

func (p *interruptsParser) line(line []byte) error {
	label, rest := token(line)
	if len(label) == 0 {
		return nil
	}
	// Numbers above 999 print without a space in front; a label and its first
	// count never touch, because the counts are padded.
	name, ok := bytes.CutSuffix(label, []byte{':'})
	if !ok {
		return fmt.Errorf("%q is not an interrupt label", clip(label))
	}
	start := len(p.backing)
	out, text, err := counts(rest, len(p.table.CPUs), p.backing)
	if err != nil {
		return fmt.Errorf("interrupt %s: %w", clip(name), err)
	}
	row := out[start:len(out):len(out)]
	number, err := decimal(name)
	if err != nil {
		return p.named(string(name), row, text, out)
	}
	if len(row) != len(p.table.CPUs) || startsWithNumber(text) {
		return p.miscounted(name, row, text)
	}
	chip, actions := splitActions(string(text))
	p.backing = out
	p.table.Rows = append(p.table.Rows, IRQ{Number: int(number), Counts: row, Chip: chip, Actions: actions, Node: topo.Unknown})
	return nil
}

func (p *interruptsParser) miscounted(name []byte, row []uint32, text []byte) error {
	n := len(row)
	for startsWithNumber(text) {
		_, text = token(text)
		n++
	}
	return fmt.Errorf("interrupt %s: %d counts for %d CPUs", clip(name), n, len(p.table.CPUs))
}

// named keeps an architecture line such as "LOC" or "ERR".
func (p *interruptsParser) named(name string, row []uint32, text []byte, out []uint32) error {
	single := len(row) == 1 && len(bytes.TrimSpace(text)) == 0
	if len(row) != len(p.table.CPUs) && !single || startsWithNumber(text) {
		return p.miscounted([]byte(name), row, text)
	}
	if _, twice := p.table.Named[name]; twice {
		return fmt.Errorf("interrupt %s comes twice", clip(name))
	}
	p.backing = out
	p.table.Named[name] = row
	return nil
}

// splitActions divides the text after the counts into chip and actions. The
// kernel prints chip, hardware number, optionally Level or Edge, optionally
// "-" and the flow name, then two spaces and the actions joined by ", "
// (a plain comma in /sys/kernel/irq). Widths differ between kernels and copies
// lose runs of spaces, so the flow name is looked for first.
func splitActions(text string) (chip string, actions []string) {
	trimmed := strings.TrimSpace(text)
	if end, ok := flowEnd(trimmed); ok {
		return squeeze(trimmed[:end]), actionList(trimmed[end:])
	}
	cut := strings.LastIndex(trimmed, "  ")
	if cut < 0 {
		return "", actionList(trimmed) // an old ARM controller without a name
	}
	return squeeze(trimmed[:cut]), actionList(trimmed[cut:])
}

// flowEnd finds the end of the word that closes the chip part: "2-edge",
// "-fasteoi", "IR-PCI-MSI-edge", "Level".
func flowEnd(text string) (int, bool) {
	at := 0
	for first := true; at < len(text); first = false {
		for at < len(text) && text[at] == ' ' {
			at++
		}
		end := at
		for end < len(text) && text[end] != ' ' {
			end++
		}
		word := text[at:end]
		if isFlow(word, first) {
			return end, true
		}
		at = end
	}
	return 0, false
}

func isFlow(word string, first bool) bool {
	if word == "" {
		return false
	}
	if !first && (word == "Level" || word == "Edge") {
		return true
	}
	if !first && word[0] != '-' && (word[0] < '0' || word[0] > '9') {
		return false
	}
	for _, flow := range []string{"-edge", "-fasteoi", "-level", "-event", "-msi-x", "-msi"} {
		if strings.HasSuffix(word, flow) {
			return true
		}
	}
	return false
}

func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }

func actionList(text string) []string {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	actions := strings.Split(text, ",")
	for i, a := range actions {
		actions[i] = strings.TrimSpace(a)
	}
	return actions
}

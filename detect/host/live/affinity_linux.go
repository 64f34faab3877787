package live

import (
	"bytes"
	"strings"
)

// standingReads bounds how often an affinity is read until it stands. A second
// move can only be begun by a write, which comes once in a while at most.
const standingReads = 8

// movableIRQ is the interrupt whose affinity a file shows.
func movableIRQ(name string) (irq string, ok bool) {
	rest, ok := strings.CutPrefix(name, "proc/irq/")
	if !ok {
		return "", false
	}
	irq, file, _ := strings.Cut(rest, "/")
	return irq, file == "smp_affinity" || file == "smp_affinity_list"
}

// readStanding reads an affinity that is not being moved at that moment. A move
// that had to wait for the interrupt takes the wish away first and sets the
// affinity afterwards (kernel/irq/migration.c, irq_move_masked_irq), and in
// between the file shows the old one, or nothing (kernel/irq/proc.c,
// show_irq_affinity, which takes no lock): for as long as the hypervisor lets
// that CPU wait. In a guest under load 14 of 6,000 readings did. The hwirq of
// sysfs is shown under the lock that the move holds (kernel/irq/irqdesc.c,
// hwirq_show), so what was under way before it is over after it, and two equal
// readings with that between them are the truth. Without sysfs they are as good
// as one. It takes 7 µs where one reading takes 2 (kernel 6.18, two CPUs).
func (f *files) readStanding(name, irq string) ([]byte, error) {
	return standing(
		func() ([]byte, error) { return f.readOnce(name) },
		func() { _, _ = f.readOnce("sys/kernel/irq/" + irq + "/hwirq") },
	)
}

// standing reads until two readings with a wait between them agree.
func standing(read func() ([]byte, error), wait func()) ([]byte, error) {
	last, err := read()
	for range standingReads {
		if err != nil {
			return nil, err
		}
		wait()
		var now []byte
		now, err = read()
		if err == nil && bytes.Equal(now, last) {
			return now, nil
		}
		last = now
	}
	return last, err
}

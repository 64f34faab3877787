package main

import (
	"fmt"
	"io"
	"time"
)

// progressInterval is how often the line on a terminal is renewed: often enough
// for a count in seconds, too rarely to disturb what is measured.
const progressInterval = 250 * time.Millisecond

// progress tells on stderr how far a measurement is: on a terminal a single
// line that is renewed, elsewhere one line at the start.
type progress struct {
	w        io.Writer
	terminal bool
	quiet    bool
	began    bool
	last     string
}

// newProgress is silent for windows of up to a second unless -v is given:
// nobody wonders about so short a silence.
func newProgress(e env, o options) *progress {
	return &progress{w: e.Stderr, terminal: e.StderrTTY, quiet: o.window <= time.Second && !o.style.Verbose}
}

func (p *progress) show(elapsed, window time.Duration) {
	if p.quiet {
		return
	}
	if !p.terminal {
		if !p.began {
			_, _ = fmt.Fprintf(p.w, "measuring for %s …\n", window)
		}
		p.began = true
		return
	}
	p.began = true
	text := fmt.Sprintf("measuring: %d of %s", int(elapsed.Seconds()), window)
	if text != p.last {
		// Return to the first column and erase to the end (ECMA-48 EL).
		_, _ = fmt.Fprint(p.w, "\r\x1b[K"+text)
		p.last = text
	}
}

// done removes the line from a terminal.
func (p *progress) done() {
	if p.began && p.terminal {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

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
	// what is measured, "measuring" if empty; in windows that follow each
	// other, passed are over and whole is all of them.
	what          string
	passed, whole time.Duration
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
	if p.whole > 0 {
		elapsed, window = p.passed+elapsed, p.whole
	}
	what := p.what
	if what == "" {
		what = "measuring"
	}
	if !p.terminal {
		if !p.began {
			_, _ = fmt.Fprintf(p.w, "%s for %s …\n", what, window)
		}
		p.began = true
		return
	}
	p.began = true
	text := fmt.Sprintf("%s: %d of %s", what, int(elapsed.Seconds()), window)
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

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
)

// answer is what somebody said to a question.
type answer int

const (
	no      answer = iota
	yes            // only y and yes: an empty line is no
	silence        // the input ended, as when a connection is lost
)

// audience asks the person at the terminal. Lines are read beside the caller,
// so that a signal ends a question that nobody answers.
type audience struct {
	in  *bufio.Reader
	out io.Writer
}

func newAudience(e env) *audience {
	in := e.Stdin
	if in == nil {
		in = strings.NewReader("")
	}
	return &audience{in: bufio.NewReader(in), out: e.Stderr}
}

// ask returns the cause if ctx ends before an answer. No second question may
// follow that: its answer would go to the first.
func (a *audience) ask(ctx context.Context, question string) (answer, error) {
	_, _ = fmt.Fprint(a.out, question+" [y/N] ")
	heard := make(chan answer, 1)
	go func() { heard <- a.listen() }()
	select {
	case <-ctx.Done():
		return no, context.Cause(ctx)
	case said := <-heard:
		return said, nil
	}
}

func (a *audience) listen() answer {
	line, err := a.in.ReadString('\n')
	switch word := strings.ToLower(strings.TrimSpace(line)); {
	case word == "y" || word == "yes":
		return yes
	case err != nil && word == "":
		return silence
	default:
		return no
	}
}

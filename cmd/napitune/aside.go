package main

import (
	"io"
	"slices"
	"sync"
	"time"
)

// aside writes messages beside whoever has them. A terminal that was stopped
// (Ctrl-S), or whose connection is dead, takes nothing and says nothing; a
// transaction that waited for it would keep the lock past its deadline.
type aside struct {
	to   io.Writer
	wake chan struct{}

	mu      sync.Mutex
	waiting []byte
	writing bool
}

// leaveTime is how long a message may take that something else waits for, such
// as a document on the same terminal.
const leaveTime = time.Second

func newAside(to io.Writer) *aside {
	a := &aside{to: to, wake: make(chan struct{}, 1)}
	go a.deliver()
	return a
}

// Write takes everything and never fails: messages end no transaction.
func (a *aside) Write(text []byte) (int, error) {
	a.mu.Lock()
	a.waiting = append(a.waiting, text...)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // it will find this, too
	}
	return len(text), nil
}

// deliver ends with the process: what it writes to may never let go of it.
func (a *aside) deliver() {
	for range a.wake {
		a.mu.Lock()
		text := slices.Clone(a.waiting)
		a.waiting, a.writing = a.waiting[:0], true
		a.mu.Unlock()
		_, _ = a.to.Write(text)
		a.mu.Lock()
		a.writing = false
		a.mu.Unlock()
	}
}

// flush waits, for leaveTime at most, until everything is written.
func (a *aside) flush() {
	idle := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.waiting) == 0 && !a.writing
	}
	for end := time.Now().Add(leaveTime); !idle() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// flush has messages come before what is printed next.
func (e env) flush() {
	if a, ok := e.Stderr.(*aside); ok {
		a.flush()
	}
}

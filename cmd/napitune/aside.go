package main

import (
	"io"
	"sync"
	"time"
)

// aside writes messages beside whoever has them. A terminal that was stopped
// (Ctrl-S), or whose connection is dead, takes nothing and says nothing; a
// transaction that waited for it would keep the lock past its deadline.
type aside struct {
	to    io.Writer
	wake  chan struct{}
	asked chan chan<- struct{} // who waits until everything is written

	mu      sync.Mutex
	waiting []byte
}

// leaveTime is how long a message may take that something else waits for, such
// as a document on the same terminal.
const leaveTime = time.Second

func newAside(to io.Writer) *aside {
	a := &aside{to: to, wake: make(chan struct{}, 1), asked: make(chan chan<- struct{})}
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
	for {
		select {
		case <-a.wake:
			a.pass()
		case seen := <-a.asked:
			a.pass()
			close(seen)
		}
	}
}

func (a *aside) pass() {
	a.mu.Lock()
	text := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	if len(text) > 0 {
		_, _ = a.to.Write(text)
	}
}

// flush waits, for leaveTime at most, until everything is written.
func (a *aside) flush() {
	limit := time.NewTimer(leaveTime)
	defer limit.Stop()
	seen := make(chan struct{})
	select {
	case a.asked <- seen:
	case <-limit.C:
		return
	}
	select {
	case <-seen:
	case <-limit.C:
	}
}

// flush has messages come before what is printed next.
func (e env) flush() {
	if a, ok := e.Stderr.(*aside); ok {
		a.flush()
	}
}

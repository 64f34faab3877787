package main

import (
	"io"
	"testing"
	"time"
)

// Messages arrive whole and in order, also those that come while nothing is
// taken, and nobody waits for them longer than a moment.
func TestAside(t *testing.T) {
	t.Parallel()
	reader, writer := io.Pipe()
	a := newAside(writer)
	for _, word := range []string{"one ", "two ", "three "} {
		if n, err := a.Write([]byte(word)); n != len(word) || err != nil { // and does not hang
			t.Errorf("%q: %d, %v", word, n, err)
		}
	}
	start := time.Now()
	a.flush()
	if took := time.Since(start); took < leaveTime {
		t.Errorf("nothing was taken, and that was waited for only %s", took)
	}
	heard := make(chan string, 1)
	go func() {
		text := make([]byte, len("one two three "))
		_, _ = io.ReadFull(reader, text)
		heard <- string(text)
	}()
	a.flush()
	select {
	case text := <-heard:
		if text != "one two three " {
			t.Errorf("%q", text)
		}
	case <-time.After(10 * time.Second):
		t.Error("not everything arrived")
	}
}

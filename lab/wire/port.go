package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// reply is a line of the host's answers.
type reply struct {
	Sent  Sent   `json:"sent"`
	Error string `json:"error,omitempty"`
}

// stop is the kind of a request that ends the load in progress.
const stop = "stop"

// Serve answers requests for loads, one JSON line each, until the other end
// goes away or the context ends.
func Serve(ctx context.Context, port io.ReadWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loads, ended := make(chan asked), make(chan error, 1)
	go func() { ended <- listen(ctx, port, loads) }()
	out := json.NewEncoder(port)
	for {
		select {
		case err := <-ended:
			return err
		case next := <-loads:
			sent, err := Send(next.ctx, next.load)
			answer := reply{Sent: sent}
			if err != nil {
				answer.Error = err.Error()
			}
			if err := out.Encode(answer); err != nil {
				return fmt.Errorf("answer to a load: %w", err)
			}
		}
	}
}

// asked is a load with the context that a request to stop ends.
type asked struct {
	ctx  context.Context
	load Load
}

// listen hands on requests for loads and ends the last one when told to.
func listen(ctx context.Context, port io.Reader, loads chan<- asked) error {
	in := json.NewDecoder(port)
	cancel := func() {}
	defer func() { cancel() }()
	for {
		var load Load
		if err := in.Decode(&load); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("request for a load: %w", err)
		}
		cancel()
		if load.Kind == stop {
			continue
		}
		own, end := context.WithCancel(ctx)
		cancel = end
		select {
		case loads <- asked{own, load}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Peer is the guest's line to the host's end of the wire. Only one process can
// hold it.
type Peer struct {
	mu   sync.Mutex // held from a request to its answer
	port io.ReadWriteCloser
	in   *json.Decoder
}

// NewPeer talks over a port that Serve answers on.
func NewPeer(port io.ReadWriteCloser) *Peer {
	return &Peer{port: port, in: json.NewDecoder(port)}
}

// Open finds the guest's port. fs.ErrNotExist: this is no guest of the lab.
func Open() (*Peer, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		label, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(label)) != "lab.wire" {
			continue
		}
		port, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("port to the host: %w", err)
		}
		return NewPeer(port), nil
	}
	return nil, fmt.Errorf("port to the host, lab.wire in /sys/class/virtio-ports: %w", os.ErrNotExist)
}

// Send has the host make a load and blocks until it is sent. Loads asked for
// at the same time follow each other.
func (p *Peer) Send(l Load) (Sent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ask(l); err != nil {
		return Sent{}, err
	}
	return p.answer()
}

// During has the host make a load while something runs, and ends it then if it
// has not ended by itself.
func (p *Peer) During(l Load, do func() error) (Sent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ask(l); err != nil {
		return Sent{}, err
	}
	failed := do()
	if err := p.ask(Load{Kind: stop}); err != nil {
		return Sent{}, errors.Join(failed, err)
	}
	sent, err := p.answer()
	return sent, errors.Join(failed, err)
}

func (p *Peer) ask(l Load) error {
	if err := json.NewEncoder(p.port).Encode(l); err != nil {
		return fmt.Errorf("ask the host for a load: %w", err)
	}
	return nil
}

func (p *Peer) answer() (Sent, error) {
	var answer reply
	if err := p.in.Decode(&answer); err != nil {
		return Sent{}, fmt.Errorf("the host's answer: %w", err)
	}
	if answer.Error != "" {
		return answer.Sent, fmt.Errorf("the host's end of the wire: %s", answer.Error)
	}
	return answer.Sent, nil
}

// Close gives the port back.
func (p *Peer) Close() error { return p.port.Close() }

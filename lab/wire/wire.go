// Package wire makes traffic for guests and counts it. It runs at the host's
// end of the wire, asked by the guest through a serial port, or in the guest.
package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Load is traffic to send. It ends after Packets or Seconds, whichever is first.
type Load struct {
	Kind      string  `json:"kind"`                 // udp or tcp
	To        string  `json:"to"`                   // address and port
	Flows     int     `json:"flows"`                // different source ports, in turn
	Size      int     `json:"size,omitempty"`       // bytes of payload in a write; 0: 56 for udp, 65536 for tcp
	Packets   int     `json:"packets,omitempty"`    // udp: datagrams of all flows; 0: no limit
	PerSecond int     `json:"per_second,omitempty"` // udp: datagrams in a second; 0: as fast as possible
	Seconds   float64 `json:"seconds,omitempty"`    // 0: no limit, so Packets is needed
}

// Sent is what a load came to.
type Sent struct {
	Packets int64   `json:"packets"` // writes that succeeded; datagrams for udp
	Bytes   int64   `json:"bytes"`
	Failed  int64   `json:"failed"` // writes that the sender's own kernel refused
	Seconds float64 `json:"seconds"`
}

// firstPort is the source port of flow 0: fixed, so that the same load meets
// the same queues of a NIC whose hash key is fixed.
const firstPort = 20000

// limit bounds a load that says neither how much nor how long.
const limit = 10 * time.Minute

// Send makes the load and blocks until it is sent.
func Send(ctx context.Context, l Load) (Sent, error) {
	if l.Flows < 1 || l.Flows > 4096 {
		return Sent{}, fmt.Errorf("load: flows %d: want 1 to 4096", l.Flows)
	}
	duration := limit
	if l.Seconds > 0 {
		duration = time.Duration(l.Seconds * float64(time.Second))
	} else if l.Packets == 0 {
		return Sent{}, errors.New("load: neither packets nor seconds")
	}
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	start := time.Now()
	var sent Sent
	var err error
	switch l.Kind {
	case "udp":
		sent, err = sendUDP(ctx, l)
	case "tcp":
		sent, err = sendTCP(ctx, l)
	default:
		err = fmt.Errorf("load: kind %q: want udp or tcp", l.Kind)
	}
	sent.Seconds = time.Since(start).Seconds()
	return sent, err
}

func sendUDP(ctx context.Context, l Load) (Sent, error) {
	var sent Sent
	flows := make([]net.Conn, l.Flows)
	for i := range flows {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{Port: firstPort + i}}
		flow, err := dialer.DialContext(ctx, "udp4", l.To)
		if err != nil {
			return sent, fmt.Errorf("flow %d: %w", i, err)
		}
		defer flow.Close()
		flows[i] = flow
	}
	size := l.Size
	if size == 0 {
		size = 56
	}
	payload := make([]byte, size)
	// A tick of a millisecond is short enough for every queue's ring and long
	// enough for the host's scheduler.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for tried := 0; l.Packets == 0 || tried < l.Packets; {
		due := 64
		if l.PerSecond > 0 {
			due = int(time.Since(start).Seconds()*float64(l.PerSecond)) - tried
		}
		if l.Packets > 0 {
			due = min(due, l.Packets-tried)
		}
		for range due {
			if _, err := flows[tried%len(flows)].Write(payload); err != nil {
				sent.Failed++
			} else {
				sent.Packets++
				sent.Bytes += int64(size)
			}
			tried++
		}
		if l.PerSecond == 0 && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return sent, nil
		case <-tick.C:
		}
	}
	return sent, nil
}

func sendTCP(ctx context.Context, l Load) (Sent, error) {
	size := l.Size
	if size == 0 {
		size = 65536
	}
	deadline, _ := ctx.Deadline()
	var writes, bytes, failed atomic.Int64
	var group sync.WaitGroup
	for i := range l.Flows {
		var dialer net.Dialer
		flow, err := dialer.DialContext(ctx, "tcp4", l.To)
		if err != nil {
			return Sent{}, fmt.Errorf("flow %d: %w", i, err)
		}
		defer flow.Close()
		if err := flow.SetDeadline(deadline); err != nil {
			return Sent{}, err
		}
		group.Go(func() {
			payload := make([]byte, size)
			for {
				n, err := flow.Write(payload)
				bytes.Add(int64(n))
				if err == nil {
					writes.Add(1)
					continue
				}
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					failed.Add(1)
				}
				return
			}
		})
	}
	group.Wait()
	return Sent{Packets: writes.Load(), Bytes: bytes.Load(), Failed: failed.Load()}, nil
}

// Discard takes what is sent to the UDP and the TCP port of an address and
// throws it away, until the context ends.
func Discard(ctx context.Context, address string) error {
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp4", address)
	if err != nil {
		return err
	}
	listener, err := config.Listen(ctx, "tcp4", address)
	if err != nil {
		packets.Close()
		return err
	}
	context.AfterFunc(ctx, func() {
		packets.Close()
		listener.Close()
	})
	go func() {
		buffer := make([]byte, 65536)
		for {
			if _, _, err := packets.ReadFrom(buffer); err != nil {
				return
			}
		}
	}()
	go func() {
		for {
			flow, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer flow.Close()
				// The sender ends the flow; how is of no interest.
				_, _ = io.Copy(io.Discard, flow)
			}()
		}
	}()
	return nil
}

// Package wire makes traffic for guests and counts it. It runs at the host's
// end of the wire, asked by the guest through a serial port, or in the guest.
package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load is traffic to send. It ends after Packets or Seconds, whichever is first.
type Load struct {
	Kind      string  `json:"kind"`                 // udp or tcp
	To        string  `json:"to"`                   // address and port; several, with commas between them, share the flows
	Flows     int     `json:"flows"`                // different source ports, in turn
	Size      int     `json:"size,omitempty"`       // bytes of payload in a write; 0: 56 for udp, 65536 for tcp
	Packets   int     `json:"packets,omitempty"`    // udp: datagrams of all flows; 0: no limit
	PerSecond int     `json:"per_second,omitempty"` // writes of all flows in a second; 0: as fast as possible
	Burst     int     `json:"burst,omitempty"`      // udp: datagrams that leave together; 0: as evenly as can be
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
	start := time.Now()
	var sent Sent
	var err error
	switch l.Kind {
	case "udp":
		ctx, cancel := context.WithTimeout(ctx, duration)
		defer cancel()
		sent, err = sendUDP(ctx, l)
	case "tcp":
		sent, err = sendTCP(ctx, l, duration)
	default:
		err = fmt.Errorf("load: kind %q: want udp or tcp", l.Kind)
	}
	sent.Seconds = time.Since(start).Seconds()
	return sent, err
}

func sendUDP(ctx context.Context, l Load) (Sent, error) {
	var sent Sent
	flows, targets, err := openFlows(l)
	defer func() {
		for _, flow := range flows {
			flow.Close()
		}
	}()
	if err != nil {
		return sent, err
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
		if l.Burst > 0 {
			due -= due % l.Burst
		}
		if l.Packets > 0 {
			due = min(due, l.Packets-tried)
		}
		for range due {
			if _, err := flows[tried%len(flows)].WriteToUDPAddrPort(payload, targets[tried%len(targets)]); err != nil {
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

// openFlows makes the sockets and targets of a load; flow i sends to target i,
// counted around. The sockets are not connected: one that is refuses to send
// after the target refused a datagram.
func openFlows(l Load) (flows []*net.UDPConn, targets []netip.AddrPort, err error) {
	for to := range strings.SplitSeq(l.To, ",") {
		target, err := netip.ParseAddrPort(to)
		if err != nil {
			return nil, nil, fmt.Errorf("load: to %q: %w", to, err)
		}
		targets = append(targets, target)
	}
	for i := range l.Flows {
		flow, err := net.ListenUDP("udp4", &net.UDPAddr{Port: firstPort + i})
		if err != nil {
			return flows, nil, fmt.Errorf("flow %d: %w", i, err)
		}
		flows = append(flows, flow)
	}
	return flows, targets, nil
}

// sendTCP connects first: an emulated guest needs a second for some dozen
// flows, which is not taken from the load's time.
func sendTCP(ctx context.Context, l Load, duration time.Duration) (Sent, error) {
	size := l.Size
	if size == 0 {
		size = 65536
	}
	var writes, bytes, failed atomic.Int64
	var group sync.WaitGroup
	flows := make([]net.Conn, l.Flows)
	for i := range flows {
		dialer := net.Dialer{Timeout: 10 * time.Second}
		flow, err := dialer.DialContext(ctx, "tcp4", l.To)
		if err != nil && ctx.Err() != nil {
			return Sent{}, nil // ended before it began, as between two packets
		}
		if err != nil {
			return Sent{}, fmt.Errorf("flow %d: %w", i, err)
		}
		defer flow.Close()
		flows[i] = flow
	}
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	for _, flow := range flows {
		// A request to stop ends writes in progress, too.
		defer context.AfterFunc(ctx, func() { _ = flow.SetDeadline(time.Unix(1, 0)) })()
		group.Go(func() {
			payload := make([]byte, size)
			start := time.Now()
			for n := 0; ; n++ {
				if !pace(ctx, start, n*l.Flows, l.PerSecond) {
					return
				}
				n, err := flow.Write(payload)
				bytes.Add(int64(n))
				if err == nil {
					writes.Add(1)
					continue
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					failed.Add(1)
				}
				return
			}
		})
	}
	group.Wait()
	return Sent{Packets: writes.Load(), Bytes: bytes.Load(), Failed: failed.Load()}, nil
}

// pace waits until a number of writes is due, and reports whether the load
// goes on.
func pace(ctx context.Context, start time.Time, written, perSecond int) bool {
	if perSecond == 0 {
		return ctx.Err() == nil
	}
	due := time.NewTimer(time.Until(start.Add(time.Duration(written) * time.Second / time.Duration(perSecond))))
	defer due.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-due.C:
		return true
	}
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

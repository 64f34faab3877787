package wire

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// receive counts what reaches a UDP port, by source port.
func receive(t *testing.T, want int) (address string, counted <-chan map[int]int) {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close() })
	out := make(chan map[int]int, 1)
	go func() {
		flows := map[int]int{}
		buffer := make([]byte, 2048)
		for range want {
			_, from, err := packets.ReadFrom(buffer)
			if err != nil {
				break
			}
			flows[from.(*net.UDPAddr).Port]++
		}
		out <- flows
	}()
	return packets.LocalAddr().String(), out
}

// Packets take turns over the flows, at the rate that was asked for.
func TestSendUDP(t *testing.T) {
	address, counted := receive(t, 100)
	sent, err := Send(t.Context(), Load{Kind: "udp", To: address, Flows: 10, Packets: 100, PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if sent.Packets != 100 || sent.Failed != 0 || sent.Bytes != 5600 {
		t.Errorf("sent %+v, want 100 packets of 56 bytes", sent)
	}
	if sent.Seconds < 0.09 {
		t.Errorf("100 packets at 1000 a second took %v s", sent.Seconds)
	}
	flows := <-counted
	for i := range 10 {
		if flows[firstPort+i] != 10 {
			t.Errorf("flow %d carried %d packets, want 10: %v", i, flows[firstPort+i], flows)
		}
	}
}

func TestSendTCP(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	if err := Discard(ctx, address); err != nil {
		t.Fatal(err)
	}
	sent, err := Send(ctx, Load{Kind: "tcp", To: address, Flows: 2, Seconds: 0.2})
	if err != nil || sent.Bytes == 0 || sent.Failed != 0 {
		t.Errorf("sent %+v, %v", sent, err)
	}
	if sent.Seconds > 5 {
		t.Errorf("0.2 s took %v s", sent.Seconds)
	}
	over, end := context.WithCancel(ctx)
	end()
	if sent, err := Send(over, Load{Kind: "tcp", To: address, Flows: 2, Seconds: 0.2}); err != nil || sent.Bytes > 0 {
		t.Errorf("ended before it began: %+v, %v", sent, err)
	}
}

func TestSendRefuses(t *testing.T) {
	for _, l := range []Load{
		{Kind: "udp", To: "127.0.0.1:9", Flows: 1},
		{Kind: "udp", To: "127.0.0.1:9", Packets: 1},
		{Kind: "icmp", To: "127.0.0.1:9", Flows: 1, Packets: 1},
		{Kind: "udp", To: "nowhere", Flows: 1, Packets: 1},
	} {
		if sent, err := Send(t.Context(), l); err == nil {
			t.Errorf("%+v: sent %+v", l, sent)
		}
	}
}

// A peer hears how its loads went, and why one failed.
func TestPeer(t *testing.T) {
	guest, host := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), host) }()
	peer := NewPeer(guest)
	address, counted := receive(t, 4)
	sent, err := peer.Send(Load{Kind: "udp", To: address, Flows: 2, Packets: 4})
	if err != nil || sent.Packets != 4 {
		t.Errorf("sent %+v, %v", sent, err)
	}
	<-counted
	endless := Load{Kind: "udp", To: address, Flows: 1, PerSecond: 100, Seconds: 60}
	sent, err = peer.During(endless, func() error {
		time.Sleep(100 * time.Millisecond)
		return nil
	})
	if err != nil || sent.Packets == 0 || sent.Seconds > 10 {
		t.Errorf("a load that is stopped after 0.1 s: %+v, %v", sent, err)
	}
	if _, err := peer.Send(Load{Kind: "udp", To: address}); err == nil || !strings.Contains(err.Error(), "flows 0") {
		t.Errorf("a load without flows: %v", err)
	}
	guest.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Serve goes on without its peer")
	}
}

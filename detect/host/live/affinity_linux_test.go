package live

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/napitune/napitune/lab/wire"
)

func TestStanding(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		shown []string // by each reading; the last one stays
		want  string
		reads int
	}{
		{"at rest", []string{"0"}, "0", 2},
		{"the first reading falls into the move", []string{"0", "1"}, "1", 3},
		{"the second one does", []string{"1", "0", "1"}, "1", 4},
		{"it never stands", []string{"0", "1", "0", "1", "0", "1", "0", "1", "0", "1"}, "0", 9},
	} {
		reads, waits := 0, 0
		got, err := standing(func() ([]byte, error) {
			text := test.shown[min(reads, len(test.shown)-1)]
			reads++
			return []byte(text), nil
		}, func() { waits++ })
		if err != nil || string(got) != test.want || reads != test.reads || waits != reads-1 {
			t.Errorf("%s: %q after %d readings and %d waits, %v; want %q after %d", test.name, got, reads, waits, err, test.want, test.reads)
		}
	}
	gone := errors.New("gone")
	for failing := range 3 {
		reads := 0
		_, err := standing(func() ([]byte, error) {
			reads++
			if reads > failing {
				return nil, gone
			}
			return []byte{byte(reads)}, nil
		}, func() {})
		if !errors.Is(err, gone) {
			t.Errorf("reading %d fails: %v", failing+1, err)
		}
	}
}

func TestMovableIRQ(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"proc/irq/30/smp_affinity": "30", "proc/irq/30/smp_affinity_list": "30", "proc/irq/30/effective_affinity_list": "",
		"proc/irq/default_smp_affinity": "", "sys/irq/30/smp_affinity": "", "proc/irq/30": "",
	} {
		if irq, ok := movableIRQ(name); ok != (want != "") || ok && irq != want {
			t.Errorf("%s: %q, %v; want %q", name, irq, ok, want)
		}
	}
}

// A host without the interrupt, or without sysfs, answers as before.
func TestReadStandingWithoutHost(t *testing.T) {
	t.Parallel()
	f, err := openFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFile("proc/irq/30/smp_affinity"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// TestAffinityLive moves a busy interrupt thousands of times and reads at once
// what was written, every other time by a plain reading of the file, some of
// which fall into moves. It runs in guests only: go run ./lab/cmd/lab live.
func TestAffinityLive(t *testing.T) {
	if os.Getenv("NAPITUNE_GUEST") == "" {
		t.Skip("this is no guest of the lab: run go run ./lab/cmd/lab live")
	}
	names, err := filepath.Glob("/proc/irq/*/virtio*-input.1")
	if err != nil || len(names) != 1 {
		t.Fatalf("the interrupt of queue 1: %v, %v", names, err)
	}
	name := strings.TrimPrefix(filepath.Dir(names[0]), "/") + "/smp_affinity_list"
	f, err := openFiles("/")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := wire.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	const moves, cpus = 12_000, 3 // both kinds of reading get every CPU
	torn := 0
	_, err = peer.During(wire.Load{Kind: "udp", To: "10.99.0.9:9", Flows: 256, PerSecond: 6000, Seconds: 200}, func() error {
		for n := range moves {
			want := strconv.Itoa(n%cpus) + "\n"
			if err := os.WriteFile("/"+name, []byte(want), 0); err != nil {
				return err
			}
			read, plain := f.ReadFile, n%2 == 1
			if plain {
				read = f.readOnce
			}
			got, err := read(name)
			switch {
			case err != nil:
				return err
			case string(got) == want:
			case plain:
				torn++
			default:
				t.Errorf("move %d: wrote %q, read %q", n, want, got)
			}
			if n%16 == 0 {
				time.Sleep(time.Millisecond) // packets need a CPU as well
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d plain readings were of another moment", torn, moves/2)
}

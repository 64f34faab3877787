package topo

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/cpuset"
	memory "github.com/napitune/napitune/detect/host/tree"
)

func itoa(n int) string { return strconv.Itoa(n) }

// every is the list form of from, from+step, … below end.
func every(from, end, step int) string {
	var out []string
	for n := from; n < end; n += step {
		out = append(out, itoa(n))
	}
	return strings.Join(out, ",")
}

func tree(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		if text == "-" {
			out["sys/devices/system/"+name+"/x"] = &fstest.MapFile{}
			continue
		}
		out["sys/devices/system/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestRead(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  shape
	}{
		"nothing captured": {
			files: nil,
			want:  shape{Unknown: "online smt llc nodes isolation", Gaps: 1},
		},
		"directories only, one offline": {
			files: map[string]string{"cpu/cpu0": "-", "cpu/cpu1/online": "1\n", "cpu/cpu2/online": "0\n", "cpu/cpufreq": "-", "cpu/cpuidle": "-"},
			want:  shape{Online: "0-1", Possible: "0-2", Cores: 2, LastSiblings: "1", Unknown: "smt llc nodes isolation"},
		},
		"hex masks, an offline thread left in the mask": {
			files: map[string]string{
				"cpu/online": "0-1,3\n", "cpu/isolated": "3\n",
				"cpu/cpu0/topology/thread_siblings": "00000003\n", "cpu/cpu1/topology/thread_siblings": "00000003\n", "cpu/cpu3/topology/thread_siblings": "0000000c\n",
				"cpu/cpu0/cache/index0/level": "3\n", "cpu/cpu0/cache/index0/type": "Unified\n", "cpu/cpu0/cache/index0/shared_cpu_map": "0000000f\n",
				"node/node0/cpumap": "00000003", "node/node1/cpumap": "0000000c", "node/node0/distance": "10 20\n", "node/node1/distance": "20 10\n",
			},
			want: shape{Online: "0-1,3", Possible: "0-1,3", Isolated: "3", Cores: 2, LLCs: 1, LastSiblings: "3", Nodes: "0:0-1 1:3", Trusted: true},
		},
		"(null) sets and damaged files": {
			files: map[string]string{
				"cpu/online": "0-1\n", "cpu/isolated": " (null)\n", "cpu/nohz_full": "  (null)\n",
				"cpu/cpu0/topology/thread_siblings_list": "zero\n", "cpu/cpu0/topology/thread_siblings": "1\n", "cpu/cpu1/topology/core_cpus_list": "0\n",
				"cpu/cpu1/topology/thread_siblings_list": "1\x00\x00",
				"node/node0/cpulist":                     "0-1\n", "node/node0/distance": "10 20 30\n",
			},
			want: shape{Online: "0-1", Possible: "0-1", Cores: 2, LastSiblings: "1", Nodes: "0:0-1", Unknown: "llc", Gaps: 3},
		},
		"flat distances": {
			files: map[string]string{
				"cpu/online": "0-1\n", "node/node0/cpulist": "0\n", "node/node1/cpulist": "1\n",
				"node/node0/distance": "10 10\n", "node/node1/distance": "10 10\n", "node/has_memory": "0\n",
			},
			want: shape{Online: "0-1", Possible: "0-1", Cores: 2, LastSiblings: "1", Nodes: "0:0 1:1*", Unknown: "smt llc isolation"},
		},
		"capacities": {
			files: map[string]string{
				"cpu/online": "0-2\n", "cpu/cpu0/cpu_capacity": "446\n", "cpu/cpu1/cpu_capacity": "1024\n", "cpu/cpu2/cpu_capacity": "980\n",
			},
			want: shape{Online: "0-2", Possible: "0-2", Cores: 3, LastSiblings: "2", Little: "0", Unknown: "smt llc nodes isolation"},
		},
		"frequencies, one not told": {
			files: map[string]string{
				"cpu/online": "0-2\n", "cpu/cpu0/cpufreq/cpuinfo_max_freq": "1000\n", "cpu/cpu1/cpufreq/cpuinfo_max_freq": "5000\n",
			},
			want: shape{Online: "0-2", Possible: "0-2", Cores: 3, LastSiblings: "2", Unknown: "smt llc nodes isolation"},
		},
		"kernel names the small cores": {
			files: map[string]string{"cpu/online": "0-3\n", "../cpu_atom/cpus": "2-3\n"},
			want:  shape{Online: "0-3", Possible: "0-3", Cores: 4, LastSiblings: "3", Little: "2-3", Unknown: "smt llc nodes isolation"},
		},
		"no CPU online is a lie": {
			files: map[string]string{"cpu/online": "\n", "cpu/present": "0\n"},
			want:  shape{Possible: "0", Unknown: "online smt llc nodes isolation", Gaps: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := tree(tc.files)
			if f, ok := fsys["sys/devices/system/../cpu_atom/cpus"]; ok {
				fsys["sys/devices/cpu_atom/cpus"] = f
				delete(fsys, "sys/devices/system/../cpu_atom/cpus")
			}
			if diff := cmp.Diff(tc.want, shapeOf(Read(fsys))); diff != "" {
				t.Errorf("topology (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadNothing(t *testing.T) {
	top, gaps := Read(nil)
	if top == nil || len(gaps) != 1 || top.NUMATrusted() || !top.Siblings(3).Has(3) || top.NodeOf(0) != Unknown {
		t.Errorf("Read(nil) = %+v, %v", top, gaps)
	}
}

func TestLscpu(t *testing.T) {
	text := "# CPU,Core,Socket,Node,,L1d,L1i,L2,L3\n0,0,0,0,,0,0,0,0\n1,1,0,1,,1,1,1,0\n4,0,0,0,,0,0,0,0\n5,1,0,1,,1,1,1,0\n"
	top, gaps := Read(fstest.MapFS{lscpuFile: {Data: []byte(text)}})
	want := shape{Online: "0-1,4-5", Possible: "0-1,4-5", Cores: 2, LLCs: 1, Packages: 1, LastSiblings: "1,5", Nodes: "0:0,4 1:1,5", Trusted: true, Unknown: "isolation"}
	if diff := cmp.Diff(want, shapeOf(top, gaps)); diff != "" {
		t.Errorf("topology (-want +got):\n%s", diff)
	}
	if got := top.FirstSiblings(cpuset.Of(4, 5)); got != cpuset.Of(4, 5) {
		t.Errorf("FirstSiblings(4-5) = %s, want both: they are different cores", got)
	}
}

func FuzzLscpu(f *testing.F) {
	f.Add("# CPU,Core,Socket,Node,,L1d,L1i,L2,L3\n0,0,0,0,,0,0,0,0\n")
	f.Add("0   0\n1   1\n")
	f.Add("# CPU,Node\n-,1\n")
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parseLscpu(text)
		if (err != nil) != (rows == nil) {
			t.Fatalf("parseLscpu(%q) = %v, %v", text, rows, err)
		}
	})
}

// FuzzRead damages one file after another of a small tree.
func FuzzRead(f *testing.F) {
	f.Add("0-1", "3", "10 20", "Unified", "0-1")
	f.Add("", "", "", "", "")
	f.Add("65535", "ffffffff,ffffffff", "x", "Instruction", "(null)")
	f.Fuzz(func(t *testing.T, online, mask, distance, kind, list string) {
		top, _ := Read(tree(map[string]string{
			"cpu/online": online, "cpu/cpu0/topology/thread_siblings": mask, "node/node0/distance": distance,
			"node/node0/cpumap": mask, "node/node1/cpulist": list, "cpu/cpu0/cache/index0/type": kind,
			"cpu/cpu0/cache/index0/level": "2", "cpu/cpu0/cache/index0/shared_cpu_list": list,
		}))
		if top.Known.Online {
			checkLaws(t, top)
		}
	})
}

// BenchmarkRead reads machines of growing size; the time per CPU should stay
// the same.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{8, 128, 1152} {
		b.Run(itoa(n), func(b *testing.B) {
			fsys := machine(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if top, _ := Read(fsys); top.Online.Len() != n {
					b.Fatal("wrong size")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/cpu")
		})
	}
}

// machine has its own tree because opening a missing file of a fstest.MapFS
// costs a look at all others. It has two threads per core and caches of sixteen CPUs.
func machine(t testing.TB, n int) *memory.Tree {
	files := map[string]string{"cpu/online": "0-" + itoa(n-1), "cpu/present": "0-" + itoa(n-1), "cpu/possible": "0-" + itoa(n-1), "node/node0/cpulist": "0-" + itoa(n-1)}
	for c := range n {
		dir := fmt.Sprintf("cpu/cpu%d/", c)
		files[dir+"topology/core_cpus_list"] = fmt.Sprintf("%d-%d", c&^1, c|1)
		files[dir+"topology/physical_package_id"] = "0"
		files[dir+"topology/package_cpus_list"] = "0-" + itoa(n-1)
		files[dir+"cache/index0/level"], files[dir+"cache/index0/type"] = "3", "Unified"
		files[dir+"cache/index0/shared_cpu_list"] = fmt.Sprintf("%d-%d", c&^15, c|15)
	}
	out := memory.New()
	for name, text := range files {
		if err := out.WriteFile("sys/devices/system/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

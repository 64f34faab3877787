package topo

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// captures is the folder of captured hosts, which are not part of the project
// because their licences differ.
func captures(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("NAPITUNE_HOSTS")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("NAPITUNE_HOSTS is unset: CI must test against the captured hosts")
		}
		t.Skip("NAPITUNE_HOSTS is unset: the captured hosts are not here")
	}
	return dir
}

func open(t *testing.T, file string) fstest.MapFS {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := fstest.MapFS{}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, ok := strings.Cut(h.Name, "/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = &fstest.MapFile{Data: data}
	}
}

// shape is what the tests compare: short, but every part of the tree shows.
type shape struct {
	Online, Possible, Isolated string
	Cores, LLCs, Packages      int
	LastSiblings, Little       string
	Nodes                      string // "0:0-3 1:4-7", with * for a node without memory
	Trusted                    bool
	Unknown                    string // relations that the host does not tell
	Gaps                       int
}

func shapeOf(t *Topology, gaps []Gap) shape {
	packages, caches := map[int]bool{}, map[int]bool{}
	for _, c := range t.CPUs {
		packages[c.Package] = true
		caches[c.LLC] = true
	}
	delete(packages, Unknown)
	delete(caches, Unknown)
	s := shape{
		Online: t.Online.String(), Possible: t.Possible.String(), Isolated: t.Isolated.String(),
		Cores: t.Cores(t.Online), LLCs: len(caches), Packages: len(packages),
		LastSiblings: t.Siblings(t.Online.Max()).String(), Little: t.LittleCPUs().String(),
		Trusted: t.NUMATrusted(), Gaps: len(gaps),
	}
	var nodes, unknown []string
	for _, n := range t.Nodes {
		text := itoa(n.ID) + ":" + n.CPUs.String()
		if !n.HasMemory {
			text += "*"
		}
		nodes = append(nodes, text)
	}
	for _, k := range []struct {
		name  string
		known bool
	}{{"online", t.Known.Online}, {"smt", t.Known.SMT}, {"llc", t.Known.LLC}, {"nodes", t.Known.Nodes}, {"isolation", t.Known.Isolation}} {
		if !k.known {
			unknown = append(unknown, k.name)
		}
	}
	s.Nodes, s.Unknown = strings.Join(nodes, " "), strings.Join(unknown, " ")
	return s
}

func TestCapturedHosts(t *testing.T) {
	dir := captures(t)
	for name, want := range map[string]shape{
		"hwloc/16amd64-8n2c-cpusets":                     {Online: "0-3,5-15", Possible: "0-15", Cores: 15, LLCs: 15, Packages: 8, LastSiblings: "15", Nodes: "0:0-1 1:2-3 2:5 3:6-7 4:8-9 5:10-11 6:12-13 7:14-15", Trusted: true, Unknown: "isolation"},
		"hwloc/16em64t-4s2c2t-offlines":                  {Online: "0-1,3-4,6-12,15", Possible: "0-15", Cores: 7, LLCs: 4, Packages: 4, LastSiblings: "7,15", Nodes: "0:0-1,3-4,6-12,15", Unknown: "isolation"},
		"hwloc/20em64t-hybrid-1p6c2t+2ca4co1t":           {Online: "0-19", Possible: "0-19", Cores: 14, LLCs: 1, Packages: 1, LastSiblings: "19", Little: "12-19", Nodes: "0:0-19"},
		"hwloc/256ppc-8n8s4t":                            {Online: "0-255", Possible: "0-255", Cores: 64, LLCs: 64, LastSiblings: "252-255", Nodes: "0:0-31 1:32-63 4:64-95 5:96-127 8:128-159 9:160-191 12:192-223 13:224-255", Trusted: true, Unknown: "isolation"},
		"hwloc/20s390-2g6s4c":                            {Online: "0-19", Possible: "0-63", Cores: 20, LastSiblings: "19", Unknown: "llc nodes isolation"},
		"hwloc/8em64t-2s2ca2c-buggynuma":                 {Online: "0-7", Possible: "0-7", Cores: 8, LLCs: 4, Packages: 2, LastSiblings: "7", Nodes: "0:0-7 1:0-7 2:0-7 3:0-7 4:0-7 5:0-7 6:0-7 7:0-7", Unknown: "isolation", Gaps: 1},
		"hwloc/64amd64-4s2n4ca2co":                       {Online: "0-63", Possible: "0-63", Cores: 32, LLCs: 8, Packages: 4, LastSiblings: "62-63", Nodes: "0:0-7 1:8-15 2:16-23 3:24-31 4:32-39 5:40-47 6:48-55 7:56-63", Trusted: true, Unknown: "isolation"},
		"hwloc/nvidiagpunumanodes":                       {Online: "0-15,88-103", Possible: "0-175", Cores: 8, LLCs: 4, Packages: 2, LastSiblings: "100-103", Nodes: "0:0-15 8:88-103 250: 251: 252: 253: 254: 255:", Trusted: true},
		"hwloc/nvidia-dgx-gb10":                          {Online: "0-19", Possible: "0-19", Cores: 20, LLCs: 2, Packages: 1, LastSiblings: "19", Nodes: "0:0-19"},
		"hwloc/memorysidecaches":                         {Online: "0-79", Possible: "0-79", Cores: 40, LLCs: 2, Packages: 2, LastSiblings: "39,79", Nodes: "0:" + every(0, 80, 4) + " 1:" + every(1, 80, 4) + " 2:" + every(2, 80, 4) + " 3:" + every(3, 80, 4), Trusted: true},
		"nri-plugins/server":                             {Online: "0-111", Possible: "0-111", Isolated: "4-7,60-63", Cores: 56, LLCs: 2, Packages: 2, LastSiblings: "55,111", Nodes: "0:" + every(0, 112, 4) + " 1:" + every(1, 112, 4) + " 2:" + every(2, 112, 4) + " 3:" + every(3, 112, 4) + " 4: 5:", Trusted: true},
		"nri-plugins/4-socket-server-nosnc":              {Online: "0-143", Possible: "0-143", Cores: 72, LLCs: 4, Packages: 4, LastSiblings: "71,143", Nodes: "0:0-17,72-89 1:18-35,90-107 2:36-53,108-125 3:54-71,126-143", Trusted: true},
		"nri-plugins/desktop":                            {Online: "0-19", Possible: "0-19", Cores: 10, LLCs: 1, Packages: 1, LastSiblings: "9,19", Nodes: "0:0-19"},
		"util-linux/sparc64":                             {Online: "6-7,10-11,14-15", Possible: "6-7,10-11,14-15", Cores: 6, LastSiblings: "15", Unknown: "llc nodes isolation"},
		"util-linux/s390-lpar":                           {Online: "1-5,8-19", Possible: "0-63", Cores: 17, LastSiblings: "19", Unknown: "llc nodes isolation"},
		"util-linux/rv64-milkvpioneer":                   {Online: "0-63", Possible: "0-63", Cores: 64, Packages: 1, LastSiblings: "63", Nodes: "0:0-7,16-23 1:8-15,24-31 2:32-39,48-55 3:40-47,56-63", Trusted: true, Unknown: "llc"},
		"util-linux/x86_64-epyc_7451":                    {Online: "0-95", Possible: "0-95", Cores: 48, LLCs: 16, Packages: 2, LastSiblings: "47,95", Nodes: "0:0-5,48-53 1:6-11,54-59 2:12-17,60-65 3:18-23,66-71 4:24-29,72-77 5:30-35,78-83 6:36-41,84-89 7:42-47,90-95", Trusted: true},
		"util-linux/x86_64-64cpu":                        {Online: "0-63", Possible: "0-79", Cores: 32, LLCs: 4, Packages: 4, LastSiblings: "31,63", Nodes: "0:" + every(0, 64, 2) + " 2:" + every(1, 64, 4) + " 3:" + every(3, 64, 4), Trusted: true, Unknown: "isolation"},
		"util-linux/ppc64-POWER7":                        {Online: "0-15", Possible: "0-15", Cores: 4, LastSiblings: "12-15", Nodes: "0:0-15", Unknown: "llc isolation"},
		"ghw/amd64-offlineCPUs":                          {Online: "0-1", Possible: "0-3", Cores: 2, LLCs: 2, Packages: 2, LastSiblings: "1", Nodes: "0:0-1"},
		"openshift-nto/worker2":                          {Online: "0-31", Possible: "0-31", Cores: 32, LLCs: 2, Packages: 2, LastSiblings: "31", Nodes: "0:" + every(0, 32, 2) + " 1:" + every(1, 32, 2), Trusted: true, Unknown: "isolation"},
		"netutils-linux/igb.E5606":                       {Online: "0-3", Possible: "0-3", Cores: 4, LLCs: 1, Packages: 1, LastSiblings: "3", Nodes: "0:0-3", Unknown: "isolation"},
		"netutils-linux/2xL5520.1x82576.L2_mixed.manual": {Online: "0-15", Possible: "0-15", Cores: 16, Packages: 2, LastSiblings: "15", Unknown: "smt llc nodes isolation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := shapeOf(Read(open(t, filepath.Join(dir, name+".tar.gz"))))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("topology (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryCapturedTree holds for every tree what must hold for any machine.
func TestEveryCapturedTree(t *testing.T) {
	dir := captures(t)
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.tar.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured hosts in %s (%v)", dir, err)
	}
	for _, file := range files {
		switch filepath.Base(filepath.Dir(file)) {
		case "hwloc", "nri-plugins", "ghw", "util-linux", "pcp":
		default:
			continue
		}
		if strings.Contains(file, "hpe_1152cpu") {
			continue // 13 MB without a tree
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			tree := open(t, file)
			if _, ok := tree["sys/devices/system/cpu/cpu0/topology/core_id"]; !ok {
				t.Skip("the capture has no CPU tree")
			}
			top, gaps := Read(tree)
			checkLaws(t, top)
			for cpu := range top.Online.All() {
				if siblings, llc := top.Siblings(cpu), top.LLCOf(cpu); top.CPUs[cpu].LLC != Unknown && !llc.Contains(siblings) {
					t.Errorf("CPU %d: siblings %s are outside its last-level cache %s", cpu, siblings, llc)
				}
			}
			for _, g := range gaps {
				t.Logf("gap %s: %s", g.Source, g.Reason)
			}
		})
	}
}

func checkLaws(t *testing.T, top *Topology) {
	t.Helper()
	if top.Online.IsEmpty() || !top.Present.Contains(top.Online) || !top.Possible.Contains(top.Present) {
		t.Errorf("online %s, present %s, possible %s: not a chain of subsets", top.Online, top.Present, top.Possible)
	}
	if len(top.CPUs) != top.Online.Len() {
		t.Errorf("%d CPUs described, %d online", len(top.CPUs), top.Online.Len())
	}
	for cpu := range top.Online.All() {
		siblings, llc := top.Siblings(cpu), top.LLCOf(cpu)
		if !siblings.Has(cpu) || !llc.Has(cpu) || !top.Online.Contains(siblings.Union(llc)) {
			t.Errorf("CPU %d: siblings %s, cache %s, online %s", cpu, siblings, llc, top.Online)
		}
		for other := range siblings.All() {
			if top.Siblings(other) != siblings {
				t.Errorf("CPU %d has siblings %s but CPU %d has %s", cpu, siblings, other, top.Siblings(other))
			}
		}
		if node := top.NodeOf(cpu); node != Unknown && !top.NodeCPUs(node).Has(cpu) {
			t.Errorf("CPU %d says node %d, which has %s", cpu, node, top.NodeCPUs(node))
		}
	}
}

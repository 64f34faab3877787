package main

import (
	"strings"
	"testing"

	"github.com/napitune/napitune/lab"
	"github.com/napitune/napitune/lab/faults"
)

// Every row and treatment needs a result of this run, and one only.
func TestLacking(t *testing.T) {
	m := lab.Machine{Kernel: "6.1", CPUs: 2}
	key := func(row, treatment string) string {
		return faults.Result{Fault: row, Machine: m.String(), Treatment: treatment}.Row()
	}
	before := map[string]int{key("a", "x"): 1, key("b", "x"): 1}
	after := map[string]int{key("a", "x"): 2, key("b", "x"): 1, key("a", "y"): 1, key("b", "y"): 2}
	if err := lacking(before, after, m, []string{"a"}, []string{"x", "y"}); err != nil {
		t.Error(err)
	}
	err := lacking(before, after, m, []string{"a", "b"}, []string{"x", "y"})
	if err == nil || strings.Count(err.Error(), "want 1") != 2 {
		t.Errorf("%v, want b by x and b by y", err)
	}
}

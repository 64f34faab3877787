package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/napitune/napitune/rules/plan"
)

// largestPlan bounds what is read as a plan: a host with 16 devices of 128
// queues and every setting changed stays below 8 MB.
const largestPlan = 16 << 20

// readPlan reads a plan as advise -o writes it; "-" is standard input.
func readPlan(e env, path string) (plan.Plan, error) {
	in := e.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return plan.Plan{}, fmt.Errorf("plan: %w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, largestPlan+1))
	if err != nil {
		return plan.Plan{}, fmt.Errorf("plan %s: %w", path, err)
	}
	p, err := parsePlan(data)
	if err != nil {
		return plan.Plan{}, fmt.Errorf("plan %s: %w", path, err)
	}
	return p, nil
}

// parsePlan is strict: a field that napitune does not know may be the one that
// somebody relies on.
func parsePlan(data []byte) (plan.Plan, error) {
	if len(data) > largestPlan {
		return plan.Plan{}, fmt.Errorf("longer than %d bytes", largestPlan)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var p *plan.Plan
	if err := decoder.Decode(&p); err != nil {
		return plan.Plan{}, fmt.Errorf("%w (napitune advise -o FILE writes plans)", err)
	}
	if p == nil {
		return plan.Plan{}, errors.New("null is no plan")
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return plan.Plan{}, errors.New("there is something after the plan")
	}
	return *p, nil
}

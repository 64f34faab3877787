//go:build !linux

package main

// systemService has nothing: only Linux hosts are kept.
func systemService() service { return service{} }

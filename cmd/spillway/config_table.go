package main

// TEMP
var configTable = []setting{{name: "LOG_LEVEL"}, {name: "DRAIN_TIMEOUT"}, {name: "OPS_ADDR"}, {name: "DEBUG"}}

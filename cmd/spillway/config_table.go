package main

var configTable = []setting{}

// SPDX-License-Identifier: Apache-2.0

//go:build !race

package lab

const raceEnabled = false

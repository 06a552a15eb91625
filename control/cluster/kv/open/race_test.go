// SPDX-License-Identifier: Apache-2.0

//go:build race

package open_test

const raceDetector = true

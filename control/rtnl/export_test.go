// SPDX-License-Identifier: Apache-2.0

package rtnl

// DeletionGroup is for tests.
const DeletionGroup = deletionGroup

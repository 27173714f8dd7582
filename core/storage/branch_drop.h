// Deletes records of branches within a write batch. Seen by this folder only.
#pragma once

#include "core/storage/branches.h"
#include "core/storage/database.h"

namespace mnemosyne {

void DropBranch(const Database& database, const BranchId& branch, rocksdb::WriteBatch* batch);
// Deletes all of the branch that is not kept.
void DropRest(const Database& database, const KeptOfBranch& kept, rocksdb::WriteBatch* batch);

}  // namespace mnemosyne

#include "core/storage/witness.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"

namespace mnemosyne {
namespace {

constexpr absl::string_view kFile = "WITNESS", kMagic = "mnemosyne witness";
constexpr uint32_t kVersion = 1;

struct Witness {
  uint64_t manifest = 0;  // number of the manifest that CURRENT named
  uint64_t manifest_bytes = 0;
  uint64_t manifest_checksum = 0;  // of these bytes
  uint64_t newest_log = 0;         // number of a write-ahead log that was there
};

std::string Encode(const Witness& witness) {
  ByteWriter out;
  out.Sized(kMagic);
  out.U32(kVersion);
  out.U64(witness.manifest);
  out.U64(witness.manifest_bytes);
  out.U64(witness.manifest_checksum);
  out.U64(witness.newest_log);
  out.U64(Checksum64(out.bytes()));
  return out.Take();
}

absl::StatusOr<Witness> Decode(absl::string_view bytes) {
  if (bytes.size() < sizeof(uint64_t)) return absl::DataLossError("it is too short");
  const absl::string_view body = bytes.substr(0, bytes.size() - sizeof(uint64_t));
  ByteReader end(bytes.substr(body.size())), in(body);
  ASSIGN_OR_RETURN(const uint64_t checksum, end.U64());
  if (checksum != Checksum64(body)) return absl::DataLossError("its checksum is wrong");
  ASSIGN_OR_RETURN(const absl::string_view magic, in.Sized());
  if (magic != kMagic) return absl::DataLossError("it is no witness");
  ASSIGN_OR_RETURN(const uint32_t version, in.U32());
  if (version > kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("version ", version, "; this program reads up to ", kVersion));
  }
  Witness witness;
  ASSIGN_OR_RETURN(witness.manifest, in.U64());
  ASSIGN_OR_RETURN(witness.manifest_bytes, in.U64());
  ASSIGN_OR_RETURN(witness.manifest_checksum, in.U64());
  ASSIGN_OR_RETURN(witness.newest_log, in.U64());
  RETURN_IF_ERROR(in.ExpectEnd());
  return witness;
}

std::string ManifestName(uint64_t number) { return absl::StrFormat("MANIFEST-%06d", number); }

// nullopt: CURRENT is missing or damaged, which RocksDB reports.
std::optional<uint64_t> ManifestNumber(const std::string& path) {
  const absl::StatusOr<std::string> current = ReadFile(path + "/CURRENT");
  absl::string_view name = current.ok() ? absl::string_view(*current) : "";
  uint64_t number = 0;
  const bool is_named =
      absl::ConsumePrefix(&name, "MANIFEST-") && absl::ConsumeSuffix(&name, "\n") && absl::SimpleAtoi(name, &number);
  return is_named ? std::optional<uint64_t>(number) : std::nullopt;
}

uint64_t NewestLog(const std::string& path) {
  uint64_t newest = 0, number = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const bool is_log = entry.path().extension() == ".log";
    if (is_log && absl::SimpleAtoi(entry.path().stem().string(), &number)) newest = std::max(newest, number);
  }
  return newest;
}

// The manifest's bytes that outlive a power failure.
absl::StatusOr<std::string> ReadDurable(const std::string& path) {
  ASSIGN_OR_RETURN(std::string bytes, ReadFile(path));
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return absl::NotFoundError(path);
  const bool is_synced = fsync(descriptor) == 0;
  close(descriptor);
  if (!is_synced) return absl::UnavailableError(path);
  return bytes;
}

absl::Status Check(const std::string& path, const Witness& witness) {
  if (NewestLog(path) < witness.newest_log) {
    return absl::DataLossError(absl::StrFormat("write-ahead log %06d.log is missing", witness.newest_log));
  }
  const std::optional<uint64_t> manifest = ManifestNumber(path);
  if (!manifest || *manifest > witness.manifest) return absl::OkStatus();  // begun anew since
  const std::string name = ManifestName(witness.manifest);
  if (*manifest < witness.manifest) {
    return absl::DataLossError(absl::StrCat("CURRENT names ", ManifestName(*manifest), "; there was ", name));
  }
  const absl::StatusOr<std::string> bytes = ReadFile(absl::StrCat(path, "/", name));
  if (!bytes.ok()) return absl::OkStatus();  // RocksDB reports it
  if (bytes->size() < witness.manifest_bytes) {
    return absl::DataLossError(
        absl::StrCat(name, " has ", bytes->size(), " bytes; there were ", witness.manifest_bytes));
  }
  if (Checksum64(absl::string_view(*bytes).substr(0, witness.manifest_bytes)) != witness.manifest_checksum) {
    return absl::DataLossError(absl::StrCat(name, " is not as it was: its checksum is wrong"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWitness(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadFile(absl::StrCat(path, "/", kFile));
  if (absl::IsNotFound(bytes.status())) return absl::OkStatus();
  RETURN_IF_ERROR(bytes.status());
  const absl::StatusOr<Witness> witness = Decode(*bytes);
  const absl::Status status = witness.ok() ? Check(path, *witness) : witness.status();
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("data folder '", path, "': ", witness.ok() ? "" : "WITNESS: ", status.message()));
}

absl::Status WitnessWriter::Write() {
  absl::MutexLock lock(&mutex_);
  Witness witness = {.newest_log = NewestLog(path_)};
  const std::optional<uint64_t> manifest = ManifestNumber(path_);
  if (!manifest) return absl::UnavailableError("CURRENT is being replaced");
  witness.manifest = *manifest;
  ASSIGN_OR_RETURN(const std::string bytes, ReadDurable(absl::StrCat(path_, "/", ManifestName(*manifest))));
  witness.manifest_bytes = bytes.size();
  witness.manifest_checksum = Checksum64(bytes);
  return WriteFileAtomically(absl::StrCat(path_, "/", kFile), Encode(witness));
}

}  // namespace mnemosyne

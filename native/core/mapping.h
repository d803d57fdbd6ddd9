// Files as memory, and files that are read piece by piece.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace mt {

/// A path for messages: quoted, on one line; of a long one the end.
std::string shown_path(std::string path);

/// What a file looked like when it was opened; another size or time of modification is another content.
struct Stamp {
  int64_t size, seconds, nanoseconds;
  bool operator==(const Stamp&) const = default;
};

/// A file that stays open.
class File {
 public:
  /// Throws where it cannot be opened, is empty or is not a regular file.
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// The bytes from `offset` on. Throws where there are fewer, or where they cannot be read.
  void read(void* to, size_t offset, size_t bytes) const;
  /// Tells the system that these bytes will not be read again, so that it need not keep them in memory.
  void forget(size_t offset, size_t bytes) const;
  /// Throws where the file has become another since it was opened.
  void require_unchanged() const;
  int descriptor() const { return descriptor_; }

 private:
  std::string path_;
  size_t size_ = 0;
  int descriptor_ = -1;
  Stamp stamp_{};
};

/// A file's bytes, read-only, shared by the tensors that lie in it. Files of 64 MiB and more are mapped, so that only
/// the used parts are read; smaller ones are read at once, and later changes of the file do not matter.
class Mapping {
 public:
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  /// Whether it is mapped: else its bytes were read into memory of its own.
  bool in_file() const { return file_ != nullptr; }
  /// Throws where the mapped file was cut, written to or replaced in place: what is read from it then is not what it
  /// was. A file of the same name that was moved there is another file and does not matter.
  void require_unchanged() const;
  /// Lets the pages of these bytes go, which were copied elsewhere. They are read from the file again when they are
  /// used.
  void give_back(const void* from, size_t bytes) const;

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  std::unique_ptr<File> file_;        // of a mapped one
  std::atomic<int>* lost_ = nullptr;  // not 0: pages were asked for that the file has no more
};

}  // namespace mt

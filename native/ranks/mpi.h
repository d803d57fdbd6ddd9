// MPI without a dependency: its library is opened at run time, so a build knows nothing of it.
#pragma once
#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace mt {

/// The processes, or ranks, that mpirun started. MPI is initialised once a process, and every call but `abort` comes
/// from the thread that did so. All ranks make the same calls in the same order. Throws std::runtime_error.
class Mpi {
 public:
  /// Opens the first of these libraries that is there, and initialises it. Knows the handles of Open MPI and of MPICH,
  /// whose binary interface Intel MPI, MVAPICH and Cray MPICH share.
  static std::unique_ptr<Mpi> open(const std::vector<std::string>& libraries);
  virtual ~Mpi() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// What the library says it is, and its file.
  std::string version, file;

  /// Gives every rank the bytes of all ranks, in rank order: `all` holds size() times `bytes`.
  virtual void allgather(const void* mine, void* all, size_t bytes) = 0;
  /// Gives rank r the part r of every rank's bytes, in rank order: `mine` and `all` hold size() parts of `bytes` each.
  virtual void alltoall(const void* mine, void* all, size_t bytes) = 0;
  /// Gives every rank the bytes of `root`.
  virtual void broadcast(void* data, size_t bytes, int root) = 0;
  /// Waits for all ranks, and ends MPI.
  virtual void finalize() = 0;

  /// Ends every rank with `code`: at once where this one waits for others, else by the call that follows. For any
  /// thread.
  void abort(int code) { abort_ = code; }
  /// Aborts where that was asked for.
  virtual void heed() = 0;

 protected:
  std::atomic<int> abort_{0};
};

}  // namespace mt

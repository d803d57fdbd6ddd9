/** A file system on which the disk is full after so many writes to a file. */
import * as fs from 'node:fs/promises'
import type { FileSystem } from '../../lib/files/atomic.js'

export const fullDisk = (after: number): FileSystem => ({
  ...fs,
  open: async (path, flags) => {
    const handle = await fs.open(path, flags)
    let writes = 0
    return {
      write: ((...args: [Uint8Array, number, number]) =>
        writes++ < after
          ? handle.write(...args)
          : Promise.reject(
              Object.assign(new Error('no space left on device'), { code: 'ENOSPC' }),
            )) as fs.FileHandle['write'],
      sync: () => handle.sync(),
      close: () => handle.close(),
    }
  },
})

// `node --import ./bench/peak.mjs program.js`: writes the most that was resident, in bytes, to the file in PEAK_FILE.

import { writeFileSync } from 'node:fs'

process.on('exit', () => {
  writeFileSync(process.env.PEAK_FILE, String(process.resourceUsage().maxRSS * 1024))
})

// `npm run build`: everything that the package needs at run time.

import { buildJavaScript, buildNative } from './lib/build.mjs'
import { installPackages } from './lib/install.mjs'
import { requireTools } from './lib/tools.mjs'

requireTools()
installPackages()
buildNative()
buildJavaScript()

// Compiled, never run: the exports for an ES module, in Node.js and in bundlers.

import { expectTypeOf } from 'expect-type';
import WSMsgBroker, { Server } from 'wsmsgbroker';
import Browser, { Server as BrowserServer } from 'wsmsgbroker/browser';

expectTypeOf(new WSMsgBroker('a', 'ws://localhost')).toEqualTypeOf<WSMsgBroker>();
expectTypeOf(new Browser('a', 'ws://localhost')).toEqualTypeOf<Browser>();
expectTypeOf(Server).toEqualTypeOf(WSMsgBroker.Server);
expectTypeOf(BrowserServer).toEqualTypeOf(Browser.Server);
expectTypeOf<Browser.ClientOptions>().toHaveProperty('token');

// @ts-expect-error the script for pages is not a module
import('wsmsgbroker/browser/wsmsgbroker.js');
// @ts-expect-error not exported
import('wsmsgbroker/lib/client');

/** The dialogs that any page can open. */

class Dialogs {
  open = $state<'settings' | 'keys' | null>(null);

  close(): void {
    this.open = null;
  }
}

export const dialogs = new Dialogs();

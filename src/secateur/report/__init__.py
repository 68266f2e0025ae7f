"""What people read: tables, the HTML report beside a model, its card on the Hub."""

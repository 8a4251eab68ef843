-- Reads the account.
touch()
return unchanged('OK')
